package mirror

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Rings says which terminals see a publication first: by address, then by the
// name they ask for. Everyone else is in "all".
type Rings struct {
	Test, Pilot Members
}

// Members are the terminals of one ring.
type Members struct {
	Networks []netip.Prefix
	Hosts    []string // names of this server that only these terminals use
}

// ParseNetworks reads addresses and CIDR prefixes: "10.1.2.0/24", "10.1.2.3".
func ParseNetworks(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("network %.80q: %w: %w", s, err, feed.ErrConfig)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// Staged reports whether test terminals are named; without them there is one ring, "all".
func (r Rings) Staged() bool { return len(r.Test.Networks)+len(r.Test.Hosts) > 0 }

// active are the rings that publications go through.
func (r Rings) active() []string {
	if r.Staged() {
		return feed.Rings()
	}
	return []string{"all"}
}

// Of is the ring of a request's terminal.
func (r Rings) Of(req *http.Request) string {
	if !r.Staged() {
		return "all"
	}
	addr := peer(req)
	switch {
	case r.Test.has(addr):
		return "test"
	case r.Pilot.has(addr):
		return "pilot"
	case r.Test.answers(req.Host):
		return "test"
	case r.Pilot.answers(req.Host):
		return "pilot"
	}
	return "all"
}

func (m Members) has(a netip.Addr) bool {
	return slices.ContainsFunc(m.Networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (m Members) answers(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return slices.ContainsFunc(m.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// peer is the address a request comes from; the zero Addr if it has none.
func peer(req *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

const day = 24 * time.Hour

// wait is how long a feed's snapshot waits for a ring after it was accepted.
// The default is by class (users.md UR-32): definitions 0, 2, 4 hours, others
// 1, 3, 7 days; with one ring a day, definitions at once.
func (r Rings) wait(s feed.Setup, ring string) time.Duration {
	if d, ok := s.Waits[ring]; ok {
		return time.Duration(d)
	}
	definitions := s.Prefer == feed.Definition
	switch {
	case !r.Staged() && definitions:
		return 0
	case !r.Staged():
		return day
	case definitions:
		return map[string]time.Duration{"test": 0, "pilot": 2 * time.Hour, "all": 4 * time.Hour}[ring]
	}
	return map[string]time.Duration{"test": day, "pilot": 3 * day, "all": 7 * day}[ring]
}
