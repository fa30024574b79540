package main

import (
	"bufio"
	"io"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
)

// who is the OS account, for the audit log: what the system says of the user
// id, never the environment. os/user falls back to $USER for an id that it does
// not find without cgo, and so does its LookupId for one's own id, so the table
// of accounts is read here. An id that is not in it stands for itself.
func who() string {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" { // there the system is asked
		if u, err := user.Current(); err == nil {
			return u.Username
		}
		return "unknown"
	}
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return accountOf(os.Getuid(), strings.NewReader(""))
	}
	defer f.Close()
	return accountOf(os.Getuid(), f)
}

// accountOf finds the name of a user id in a passwd file, else "uid:N".
func accountOf(uid int, passwd io.Reader) string {
	id := strconv.Itoa(uid)
	for lines := bufio.NewScanner(passwd); lines.Scan(); {
		if f := strings.Split(lines.Text(), ":"); len(f) >= 7 && f[2] == id && f[0] != "" {
			return f[0]
		}
	}
	return "uid:" + id
}
