//go:build !crashtest

package durable

// Step marks a place where a power cut must leave the old or the new state.
// In ordinary builds it does nothing; with the build tag crashtest the process
// kills itself there (step_crash.go).
func Step(string) {}
