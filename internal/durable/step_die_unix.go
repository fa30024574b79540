//go:build crashtest && !windows

package durable

import (
	"os"
	"syscall"
)

func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
