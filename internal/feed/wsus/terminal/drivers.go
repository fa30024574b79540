package terminal

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The drivers' pass, written from MS-WUSP 3.1.5.7 and not from our server.

// Device is one device of the machine.
type Device struct {
	HardwareIDs   []string // the most specific first
	CompatibleIDs []string
	Driver        *Driver // what drives it now; nil is nothing
}

// Driver is a driver for one hardware id.
type Driver struct {
	Revision     int // of an offered one
	HardwareID   string
	Date         string // 2026-04-01
	Version      string // four parts
	Class        string
	Manufacturer string
	Provider     string
	Computer     string         // of an installed one: the computer id by which it was chosen
	Computers    []string       // of an offered one: those that it is for; none is all
	Feature      int            // of an installed one
	Features     map[string]int // of an offered one, by operating system
}

// Drivers asks for drivers as the agent does after its scan, and returns the
// ids of the revisions that it then knows, in order.
func (t *Terminal) Drivers() ([]int, error) {
	var r syncResult
	var b strings.Builder
	b.WriteString("<ExpressQuery>false</ExpressQuery>" + ints("InstalledNonLeafUpdateIDs", t.nonLeaf) + "<SystemSpec>")
	for _, d := range t.Machine.Devices {
		b.WriteString("<Device>" + strings1("HardwareIDs", d.HardwareIDs) + strings1("CompatibleIDs", d.CompatibleIDs))
		if x := d.Driver; x != nil {
			computer := ""
			if x.Computer != "" {
				computer = "<MatchingComputerHWID>" + x.Computer + "</MatchingComputerHWID>"
			}
			fmt.Fprintf(&b, "<installedDriver><MatchingID>%s</MatchingID><DriverVerDate>%sT00:00:00</DriverVerDate><DriverVerVersion>%d</DriverVerVersion><Class>%s</Class><Manufacturer>%s</Manufacturer><Provider>%s</Provider>%s<DriverRank>%d</DriverRank></installedDriver>",
				escape(x.HardwareID), x.Date, int64(x.number()), escape(x.Class), escape(x.Manufacturer), escape(x.Provider), computer, x.Feature<<16)
		}
		b.WriteString("</Device>")
	}
	b.WriteString("</SystemSpec>" + ints("CachedDriverIDs", t.drivers) + "<SkipSoftwareSync>true</SkipSoftwareSync>")
	if len(t.Machine.Computers) > 0 {
		b.WriteString("<ComputerSpec><HardwareIDs>")
		for _, c := range t.Machine.Computers {
			b.WriteString("<guid>" + c + "</guid>")
		}
		b.WriteString("</HardwareIDs></ComputerSpec>")
	}
	b.WriteString("<FeatureScoreMatchingKey>" + t.Machine.Feature + "</FeatureScoreMatchingKey>")
	if err := t.Call(clientPath, nsClient, "SyncUpdates", t.Cookie()+"<parameters>"+b.String()+"</parameters>", &r); err != nil {
		return nil, err
	}
	t.cookie = r.Cookie
	t.drivers = slices.DeleteFunc(t.drivers, func(id int) bool { return slices.Contains(r.Gone, id) })
	t.Matched = map[int][]string{}
	for _, n := range r.New {
		if slices.Contains(t.drivers, n.ID) || n.Action == "" {
			return nil, fmt.Errorf("driver %d sent twice or without a deployment", n.ID)
		}
		t.drivers = append(t.drivers, n.ID)
		t.Matched[n.ID] = n.Hardware
	}
	slices.Sort(t.drivers)
	return t.drivers, nil
}

func (d *Driver) number() (n uint64) {
	for _, p := range strings.Split(d.Version, ".") {
		v, _ := strconv.ParseUint(p, 10, 16)
		n = n<<16 + v
	}
	return n
}

func escape(s string) string { return strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(s) }

func strings1(tag string, list []string) string {
	out := "<" + tag + ">"
	for _, s := range list {
		out += "<string>" + escape(s) + "</string>"
	}
	return out + "</" + tag + ">"
}

// better applies the five rules of 3.1.5.7 to two drivers for one device, in
// their order; a and b are then equal if neither is better.
func (m Machine) better(d Device, a, b *Driver) bool {
	computer := func(x *Driver) int {
		for i, c := range m.Computers {
			if x.Computer == c || slices.Contains(x.Computers, c) {
				return i
			}
		}
		return len(m.Computers)
	}
	if x, y := computer(a), computer(b); x != y {
		return x < y
	}
	feature := func(x *Driver) int {
		if x.Features == nil {
			return x.Feature
		}
		if n, ok := x.Features[m.Feature]; ok {
			return n
		}
		return 255
	}
	if x, y := feature(a), feature(b); x != y {
		return x < y
	}
	ids := slices.Concat(d.HardwareIDs, d.CompatibleIDs)
	hardware := func(x *Driver) int {
		for i, id := range ids {
			if strings.EqualFold(id, x.HardwareID) {
				return i
			}
		}
		return len(ids)
	}
	if x, y := hardware(a), hardware(b); x != y {
		return x < y
	}
	if a.Date != b.Date {
		return a.Date > b.Date
	}
	return a.number() > b.number()
}

// Best says which of the offered drivers the machine is to get for a device:
// those not better than another are discarded, pair by pair. false: none.
func (m Machine) Best(d Device, offered []Driver) (int, bool) {
	best := -1
	ids := slices.Concat(d.HardwareIDs, d.CompatibleIDs)
	for i := range offered {
		x := &offered[i]
		if !slices.ContainsFunc(ids, func(id string) bool { return strings.EqualFold(id, x.HardwareID) }) {
			continue
		}
		if len(x.Computers) > 0 && !slices.ContainsFunc(x.Computers, func(c string) bool { return slices.Contains(m.Computers, c) }) {
			continue
		}
		if best < 0 || m.better(d, x, &offered[best]) {
			best = i
		}
	}
	if best < 0 || d.Driver != nil && !m.better(d, &offered[best], d.Driver) {
		return 0, false
	}
	if d.Driver == nil || d.Driver.Class != "Printer" {
		return best, true
	}
	return best, slices.ContainsFunc(offered, func(x Driver) bool { // any entry of the revision will do
		return x.Revision == offered[best].Revision && x.Provider == d.Driver.Provider && x.Manufacturer == d.Driver.Manufacturer
	})
}
