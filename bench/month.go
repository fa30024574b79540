//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/ulikunitz/xz"
)

// month says what a month, a week and a day of Debian's security suites weigh
// against the whole of them. The archive has no older states, but every
// package carries the time of its source's changelog entry (the modification
// time of its first ar member, deb(5)), so the packages that are new since a
// day can be told from today's list: exactly those that one carry a month
// takes. A version that was replaced again within the time is not seen and not
// carried. The addresses are those of this machine's apt.
func month(l *lab) error {
	site, err := securityArchive()
	if err != nil {
		return err
	}
	l.head("suite", "newest", "since days", "new packages", "MB", "all packages", "MB", "increment / complete")
	for _, suite := range []string{"trixie-security", "bookworm-security"} {
		packages, err := suitePackages(site, suite)
		if err != nil {
			return fmt.Errorf("%s: %w", suite, err)
		}
		l.ages(suite, packages)
	}
	return nil
}

type debPackage struct {
	source, file string
	size         int
	made         time.Time
}

// securityArchive is the address from which this machine's apt takes security updates.
func securityArchive() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if s := strings.TrimSpace(line); strings.Contains(s, "security") {
			return strings.TrimSuffix(s, "/"), nil
		}
	}
	return "", errors.New("this machine's apt has no security archive")
}

func suitePackages(site, suite string) ([]debPackage, error) {
	resp, err := http.Get(site + "/dists/" + suite + "/main/binary-amd64/Packages.xz")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Request.URL, resp.Status)
	}
	r, err := xz.NewReader(resp.Body)
	if err != nil {
		return nil, err
	}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	var out []debPackage
	var p debPackage
	made := map[string]time.Time{} // by source and version
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ": ")
		switch key {
		case "Package", "Source":
			p.source = value
		case "Version":
			p.source += " " + value
		case "Filename":
			p.file = value
		case "Size":
			p.size, _ = strconv.Atoi(value)
		case "":
			if _, known := made[p.source]; !known {
				if made[p.source], err = stamp(site + "/" + p.file); err != nil {
					return nil, err
				}
			}
			p.made = made[p.source]
			out, p = append(out, p), debPackage{}
		}
	}
	return out, s.Err()
}

// stamp is the time in a package's first ar header.
func stamp(url string) (time.Time, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return time.Time{}, err
	}
	req.Header.Set("Range", "bytes=0-67")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	b := make([]byte, 68)
	if _, err := io.ReadFull(resp.Body, b); err != nil || string(b[:22]) != "!<arch>\ndebian-binary " {
		return time.Time{}, fmt.Errorf("%s: %s: not a package", url, resp.Status)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b[24:36])), 10, 64)
	return time.Unix(n, 0), err
}

func (l *lab) ages(suite string, all []debPackage) {
	var newest time.Time
	total := 0
	for _, p := range all {
		total += p.size
		if p.made.After(newest) {
			newest = p.made
		}
	}
	for _, days := range []int{1, 7, 31} {
		n, size := 0, 0
		for _, p := range all {
			if p.made.After(newest.AddDate(0, 0, -days)) {
				n, size = n+1, size+p.size
			}
		}
		l.row(suite, newest.UTC().Format(time.DateOnly), fmt.Sprint(days), fmt.Sprint(n), fmt.Sprintf("%.1f", float64(size)/1e6),
			fmt.Sprint(len(all)), fmt.Sprintf("%.0f", float64(total)/1e6), fmt.Sprintf("%.2f %%", 100*float64(size)/float64(total)))
	}
}
