// Package verifier decides what may be believed.
package verifier
