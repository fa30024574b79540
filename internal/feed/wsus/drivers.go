package wsus

import (
	"cmp"
	"encoding/xml"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The driver pass of SyncUpdates (MS-WUSP rev. of February 2026, 3.1.5.7): the
// terminal lists its devices, and gets for each the best driver that is
// deployed to it, if that is better than the one it has.

// driver is one WindowsDriverMetaData of a revision: one hardware id that the
// driver is for (3.1.1, Driver Table and the tables that belong to it).
type driver struct {
	Hardware     string // lower case
	Date         int64  // DriverVerDate, days since 1970
	Version      uint64 // DriverVerVersion, four parts of 16 bits
	Class        string
	Manufacturer string
	Provider     string
	Scores       map[string]byte // "amd64.10.0" → FeatureScore
	Target       []guid          // computers that the INF is for; empty: all
	Distribution []guid          // computers that it is given to; empty: all
}

// Limits on what one revision says of drivers. Real ones name some hundred ids.
const (
	maxDriverIDs  = 20_000
	maxComputers  = 1_000
	maxFeatures   = 100
	worstFeature  = 255 // also of a driver without a feature score
	nameOfDrivers = "d.WindowsDriverMetaData"
)

// parseDrivers reads the driver metadata of a core fragment. What cannot be
// read is left out: without it the driver is offered to no device.
func parseDrivers(core []byte) []driver {
	var out []driver
	d := fragment(core)
	var now *driver
	for len(out) < maxDriverIDs {
		t, err := d.Token()
		if err != nil {
			break
		}
		switch t := t.(type) {
		case xml.StartElement:
			switch {
			case t.Name.Local == nameOfDrivers:
				x, ok := driverOf(t)
				if now = nil; ok {
					now = &x
				}
			case now == nil:
			case t.Name.Local == "d.FeatureScore":
				n, err := strconv.ParseUint(attr(t, "FeatureScore"), 16, 8)
				if os := strings.ToLower(attr(t, "OperatingSystem")); err == nil && len(os) <= maxText && len(now.Scores) < maxFeatures {
					now.Scores[os] = byte(n)
				}
			case t.Name.Local == "d.TargetComputerHardwareId", t.Name.Local == "d.DistributionComputerHardwareId":
				into := &now.Target
				if t.Name.Local == "d.DistributionComputerHardwareId" {
					into = &now.Distribution
				}
				var text string
				if d.DecodeElement(&text, &t) != nil || len(*into) >= maxComputers {
					return out
				}
				// One that cannot be read still restricts the driver.
				g, _ := parseGUID(strings.Trim(strings.TrimSpace(text), "{}"))
				*into = append(*into, g)
			}
		case xml.EndElement:
			if t.Name.Local == nameOfDrivers && now != nil {
				out = append(out, *now)
				now = nil
			}
		}
	}
	return out
}

func driverOf(t xml.StartElement) (driver, bool) {
	x := driver{Hardware: strings.ToLower(attr(t, "HardwareID")), Class: attr(t, "Class"), Manufacturer: attr(t, "Manufacturer"), Provider: attr(t, "Provider"), Scores: map[string]byte{}}
	day, err := time.Parse(time.DateOnly, attr(t, "DriverVerDate"))
	version, ok := fourParts(attr(t, "DriverVerVersion"))
	if err != nil || !ok || x.Hardware == "" || len(x.Hardware)+len(x.Class)+len(x.Manufacturer)+len(x.Provider) > 4*maxText {
		return x, false
	}
	x.Date, x.Version = days(day), version
	return x, true
}

func days(t time.Time) int64 { return t.Unix() / (24 * 60 * 60) }

// fourParts reads "10.0.19041.1" as the 64-bit number of 3.1.5.7.
func fourParts(s string) (n uint64, ok bool) {
	parts := strings.Split(s, ".")
	for _, p := range parts {
		v, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return 0, false
		}
		n = n<<16 | v
	}
	return n, len(parts) == 4
}

// device is one Device of a SystemSpec.
type device struct {
	ids       []string // HardwareIDs, then CompatibleIDs: the most specific first
	driven    bool     // it has a driver
	matching  string   // the id by which that was chosen
	date      int64
	version   uint64
	class     string
	maker     string
	provider  string
	computer  guid // MatchingComputerHWID; zero is none
	driveRank int64
}

// Limits on a SystemSpec; a native terminal sent 70 devices.
const (
	maxDevices   = 1_000
	maxDeviceIDs = 200
)

// system is a SystemSpec and what goes with it.
type system struct {
	devices   []device
	now       device
	computers []guid // ComputerSpec, the most specific first
	feature   string // FeatureScoreMatchingKey
}

// take reads an element below SystemSpec/Device; an empty path is its end.
func (y *system) take(path, text string) error {
	if path == "" {
		if len(y.devices) >= maxDevices {
			return invalid("parameters.SystemSpec")
		}
		y.devices, y.now = append(y.devices, y.now), device{}
		return nil
	}
	text = strings.TrimSpace(text)
	if len(text) > maxText {
		return invalid("parameters.SystemSpec")
	}
	d := &y.now
	switch path {
	case "HardwareIDs/string", "CompatibleIDs/string":
		if len(d.ids) >= maxDeviceIDs {
			return invalid("parameters.SystemSpec")
		}
		d.ids = append(d.ids, strings.ToLower(text))
	case "installedDriver/MatchingID":
		d.matching = strings.ToLower(text)
	case "installedDriver/DriverVerDate":
		if len(text) < len(time.DateOnly) {
			return invalid("parameters.SystemSpec")
		}
		t, err := time.Parse(time.DateOnly, text[:len(time.DateOnly)])
		if err != nil {
			return invalid("parameters.SystemSpec")
		}
		d.date, d.driven = days(t), true
	case "installedDriver/DriverVerVersion":
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return invalid("parameters.SystemSpec")
		}
		d.version, d.driven = uint64(n), true
	case "installedDriver/Class":
		d.class = text
	case "installedDriver/Manufacturer":
		d.maker = text
	case "installedDriver/Provider":
		d.provider = text
	case "installedDriver/MatchingComputerHWID":
		d.computer, _ = parseGUID(text) // nil where there is none
	case "installedDriver/DriverRank":
		d.driveRank, _ = strconv.ParseInt(text, 10, 64)
	}
	return nil
}

// fit is how well a driver suits a device; the smaller, the better, part by
// part, in the order of 3.1.5.7.
type fit struct {
	computer, feature, hardware int
	date                        int64
	version                     uint64
}

func (f fit) compare(g fit) int {
	return cmp.Or(cmp.Compare(f.computer, g.computer), cmp.Compare(f.feature, g.feature), cmp.Compare(f.hardware, g.hardware),
		cmp.Compare(g.date, f.date), cmp.Compare(g.version, f.version))
}

// place is where a list has something; what it has not comes after all.
func place[T comparable](list []T, x T) int {
	if i := slices.Index(list, x); i >= 0 {
		return i
	}
	return len(list)
}

// has is the fit of the driver that the device has.
func (y *system) has(d *device) fit {
	// A rank is 0xSSGGTHHH; GG is the feature score (Windows, "How Windows ranks drivers").
	return fit{place(y.computers, d.computer), int(d.driveRank >> 16 & 0xFF), place(d.ids, d.matching), d.date, d.version}
}

// fits is how x suits device d by its id at; false: it is for other computers.
func (y *system) fits(x *driver, at int) (fit, bool) {
	f := fit{len(y.computers), worstFeature, at, x.Date, x.Version}
	if n, ok := x.Scores[strings.ToLower(y.feature)]; ok {
		f.feature = int(n)
	}
	if len(x.Target)+len(x.Distribution) == 0 {
		return f, true
	}
	for i, c := range y.computers {
		if (len(x.Target) == 0 || slices.Contains(x.Target, c)) && (len(x.Distribution) == 0 || slices.Contains(x.Distribution, c)) {
			f.computer = i
			return f, true
		}
	}
	return f, false
}

// driverOfRevision is one entry of the catalog's table by hardware id.
type driverOfRevision struct {
	number int // of the revision
	*driver
}

// byHardware is the driver table of the newest visible revisions.
func (c *catalog) byHardware() map[string][]driverOfRevision {
	out := map[string][]driverOfRevision{}
	for _, i := range slices.Sorted(maps.Values(c.latest)) {
		r := &c.Revisions[i]
		for k := range r.Drivers {
			x := &r.Drivers[k]
			out[x.Hardware] = append(out[x.Hardware], driverOfRevision{i, x})
		}
	}
	return out
}

// best finds the drivers to offer: revision → the hardware ids by which they
// were chosen. have are the updates that the terminal has.
func (s *scope) best(y *system, have map[int32]bool) map[int][]string {
	out := map[int][]string{}
	for i := range y.devices {
		d := &y.devices[i]
		var chosen driverOfRevision
		var how fit
		for at, id := range d.ids {
			for _, x := range s.drivers[id] {
				if _, deployed := s.deploy[x.number]; !deployed {
					continue
				}
				f, ok := y.fits(x.driver, at)
				if !ok || chosen.driver != nil && f.compare(how) >= 0 || !meets(s.Revisions[x.number].Prereqs, have) {
					continue
				}
				chosen, how = x, f
			}
		}
		if chosen.driver == nil || d.driven && how.compare(y.has(d)) >= 0 {
			continue
		}
		if d.driven && d.class == "Printer" && !s.samePrinter(chosen.number, d) {
			continue
		}
		if !slices.Contains(out[chosen.number], chosen.Hardware) {
			out[chosen.number] = append(out[chosen.number], chosen.Hardware)
		}
	}
	return out
}

// samePrinter: a printer keeps to the provider and manufacturer that it has.
func (s *scope) samePrinter(number int, d *device) bool {
	return slices.ContainsFunc(s.Revisions[number].Drivers, func(x driver) bool {
		return strings.EqualFold(x.Provider, d.provider) && strings.EqualFold(x.Manufacturer, d.maker)
	})
}

// putDrivers answers the drivers' pass.
func (s *server) putDrivers(c *call, v *ringView, sc *scope, q *syncRequest, k *cookie) error {
	best := sc.best(&q.system, sc.installed(q.installed.list))
	cached := map[int32]bool{}
	for _, id := range q.drivers.list {
		cached[id] = true
	}
	var fresh, changed []int
	for _, i := range slices.Sorted(maps.Keys(best)) {
		switch id := v.Revisions[i].ID; {
		case !cached[id]:
			fresh = append(fresh, i)
		case k.drivers != sc.mark:
			changed = append(changed, i)
			fallthrough
		default:
			delete(cached, id)
		}
	}
	named := best
	if !atLeast(k.protocol, 1, 6) {
		named = nil
	}
	truncated := len(fresh) > syncPage
	c.begin("NewUpdates")
	for _, i := range fresh[:min(len(fresh), syncPage)] {
		core, err := v.fragment(v.Revisions[i].Core)
		if err != nil {
			return err
		}
		putUpdate(&c.answer, v, sc, i, core, named[i])
	}
	c.end(1)
	c.ints("OutOfScopeRevisionIDs", slices.Sorted(maps.Keys(cached)))
	if len(changed) > 0 {
		c.begin("ChangedUpdates")
		for _, i := range changed {
			putUpdate(&c.answer, v, sc, i, nil, named[i])
		}
		c.end(1)
	}
	c.flag("Truncated", truncated)
	if !truncated {
		k.drivers = sc.mark
	}
	s.putCookie(&c.answer, "NewCookie", *k)
	c.flag("DriverSyncNotNeeded", !sc.driven)
	return nil
}

// atLeast compares a protocol version "2.90" with major.minor.
func atLeast(version string, major, minor int) bool {
	a, b, _ := strings.Cut(version, ".")
	x, err := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	return err == nil && (x > major || x == major && y >= minor)
}
