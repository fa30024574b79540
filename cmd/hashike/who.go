package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// who is the OS account, for the audit log: what the system says of the user
// id, never the environment. os/user falls back to $USER for an id that it does
// not find without cgo, and so does its LookupId for one's own id, so the table
// of accounts is read here, then the domain's (SSSD, winbind) asked. An id that
// nobody knows stands for itself.
func who() string {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" { // there the system is asked
		if u, err := user.Current(); err == nil {
			return u.Username
		}
		return "unknown"
	}
	uid := os.Getuid()
	if f, err := os.Open("/etc/passwd"); err == nil {
		defer f.Close()
		if name, ok := accountOf(uid, f); ok {
			return name
		}
	}
	if name, ok := accountOf(uid, strings.NewReader(getent(uid))); ok {
		return name
	}
	return "uid:" + strconv.Itoa(uid)
}

// getent is the line that the name service switch has for a user id, "" if it
// has none or does not answer. It gets no environment.
func getent(uid int) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "/usr/bin/getent", "passwd", strconv.Itoa(uid))
	c.Env, c.Dir = []string{}, "/"
	out, err := c.Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// accountOf finds the name of a user id in lines of the form of passwd(5).
func accountOf(uid int, passwd io.Reader) (string, bool) {
	id := strconv.Itoa(uid)
	for lines := bufio.NewScanner(passwd); lines.Scan(); {
		if f := strings.Split(lines.Text(), ":"); len(f) >= 7 && f[2] == id && f[0] != "" {
			return f[0], true
		}
	}
	return "", false
}
