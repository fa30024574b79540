// Command hashike carries vendors' updates across the gap to networks without
// internet. See README.md; "hashike help" lists the commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// roomy is when the garbage collector becomes eager, in bytes. Every step must
// pass on an ordinary PC beside its owner's other work (256 MiB); left alone,
// the heap grows to twice what is live before it is swept.
const roomy = 160 << 20

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(roomy)
	}
	os.Exit(start(os.Args[1:]))
}

// foreground runs the command until it ends or Ctrl+C, a closed console window
// or SIGTERM ends it.
func foreground(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, os.Stdin, os.Stdout, os.Stderr)
}
