//go:build crashtest && windows

package durable

import "golang.org/x/sys/windows"

func die() {
	windows.TerminateProcess(windows.CurrentProcess(), 137)
	select {}
}
