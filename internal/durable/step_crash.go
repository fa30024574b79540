//go:build crashtest

package durable

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
)

// Only test binaries have this state: the number of durable steps so far.
var steps atomic.Int64

// Step ends the process without any clean-up when HASHIKE_CRASH_AT steps have
// passed. With HASHIKE_CRASH_LOG set, each step is appended to that file.
func Step(name string) {
	n := steps.Add(1)
	if log := os.Getenv("HASHIKE_CRASH_LOG"); log != "" {
		if f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			fmt.Fprintf(f, "%d %s\n", n, name)
			f.Close()
		}
	}
	if at, err := strconv.ParseInt(os.Getenv("HASHIKE_CRASH_AT"), 10, 64); err == nil && n == at {
		die()
	}
}
