package feed

import (
	"errors"
	"fmt"
)

// The classes of error. A class decides the exit code and what an engine does;
// everything else is said by the text that wraps it.
var (
	// ErrUnchanged: the upstream state is still the previous snapshot. Not a failure.
	ErrUnchanged = errors.New("unchanged")
	// ErrUpstream: the vendor answered something this version cannot read, or more than the cap.
	ErrUpstream = errors.New("unexpected upstream content")
	// ErrTransient: the network or the vendor may answer later.
	ErrTransient = errors.New("try again later")
	// ErrUntrusted: a signature, digest or chain does not hold. Never retried silently.
	ErrUntrusted = errors.New("not trusted")
	// ErrRollback: older than what was accepted before.
	ErrRollback = fmt.Errorf("older than already accepted: %w", ErrUntrusted)
	// ErrHeld: genuine as far as it goes, but a person must decide (strength below the floor).
	ErrHeld = errors.New("held for a person")
	// ErrDamaged: stored or carried bytes are not what they were.
	ErrDamaged = errors.New("damaged")
	// ErrConfig: the configuration does not make sense.
	ErrConfig = errors.New("configuration")
	// ErrWrongSide: the operation belongs to the other side.
	ErrWrongSide = errors.New("belongs to the other side")
)

// Fault carries an error to a person: a code of the message catalogue
// (internal/i18n) and the values its sentences name. It wraps the cause.
type Fault struct {
	Code string            // "H-502"
	Args map[string]string // values for the catalogue's braces
	Err  error             // the cause, of one of the classes above
}

func (f *Fault) Error() string { return f.Code + ": " + f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

// NewFault attaches a message code to err. Args come in pairs: name, value.
func NewFault(err error, code string, args ...string) error {
	m := make(map[string]string, len(args)/2)
	for i := 0; i+1 < len(args); i += 2 {
		m[args[i]] = args[i+1]
	}
	return &Fault{Code: code, Args: m, Err: err}
}

// About names the feed in every message within err that leaves it out: a kind
// does not know what its feed is called. What the vendor did wrong without a
// message of its own is H-401.
func About(name string, err error) error {
	if err == nil {
		return nil
	}
	if !about(name, err) && errors.Is(err, ErrUpstream) {
		return NewFault(err, "H-401", "feed", name, "detail", err.Error())
	}
	return err
}

// about reports whether there was a message to fill in.
func about(name string, err error) (any bool) {
	switch e := err.(type) {
	case *Fault:
		if e.Args == nil {
			e.Args = map[string]string{}
		}
		if e.Args["feed"] == "" {
			e.Args["feed"] = name
		}
		return true
	case interface{ Unwrap() []error }:
		for _, sub := range e.Unwrap() {
			any = about(name, sub) || any
		}
	case interface{ Unwrap() error }:
		return about(name, e.Unwrap())
	}
	return any
}
