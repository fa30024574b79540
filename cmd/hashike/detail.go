package main

import (
	"regexp"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// operation is what the system was asked for. It says nothing to a reader; the
// log has it.
var operation = regexp.MustCompile(`\b(?:open|openat|stat|statat|lstat|lstatat|read|readat|write|mkdir|mkdirat|rename|renameat|unlinkat) (\S+): `)

// phrases are the system's own words, of Linux and Windows, and ours for them.
func phrases() [][2]string {
	return [][2]string{
		{"no such file or directory", "os.notexist"},
		{"The system cannot find the file specified.", "os.notexist"},
		{"The system cannot find the path specified.", "os.notexist"},
		{"permission denied", "os.permission"},
		{"operation not permitted", "os.permission"},
		{"Access is denied.", "os.permission"},
		{"input/output error", "os.io"},
		{"The device is not ready.", "os.io"},
		{"read-only file system", "os.readonly"},
		{"The media is write protected.", "os.readonly"},
		{"not a directory", "os.notdir"},
		{"The directory name is invalid.", "os.notdir"},
		{"address already in use", "os.inuse"},
		{"connection refused", "os.refused"},
		{"unexpected EOF", "os.short"},
	}
}

// plainly writes an error for the sentence of a message: without the class,
// which the message's code says, without names said twice, and with the
// system's words in the reader's language.
func (a *app) plainly(s string) string {
	s = withoutClass(s)
	s = operation.ReplaceAllString(s, "$1: ")
	for _, p := range phrases() {
		s = strings.ReplaceAll(s, p[0], a.cat.T(p[1]))
	}
	parts := strings.Split(s, ": ")
	out := parts[:1]
	for _, p := range parts[1:] {
		if p != out[len(out)-1] {
			out = append(out, p)
		}
	}
	return strings.Join(out, ": ")
}

func withoutClass(s string) string {
	for _, class := range []error{feed.ErrRollback, feed.ErrUntrusted, feed.ErrHeld, feed.ErrDamaged, feed.ErrConfig, feed.ErrWrongSide, feed.ErrUpstream, feed.ErrTransient} {
		if rest, ok := strings.CutSuffix(s, ": "+class.Error()); ok {
			return withoutClass(rest)
		}
	}
	return s
}
