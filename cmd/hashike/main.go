// Command hashike carries vendors' updates across the gap to networks without
// internet. See README.md; "hashike help" lists the commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(start(os.Args[1:])) }

// foreground runs the command until it ends or Ctrl+C, a closed console window
// or SIGTERM ends it.
func foreground(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, os.Stdin, os.Stdout, os.Stderr)
}
