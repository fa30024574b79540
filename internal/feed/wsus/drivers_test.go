package wsus

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/wsus/terminal"
)

// driverDocument is a driver as Microsoft publishes one: a metadata element for
// each hardware id. Every name below it is a rule for what the driver is for.
func driverDocument(g guid, prereqs []guid, drivers ...terminal.Driver) []byte {
	var b strings.Builder
	for _, x := range drivers {
		fmt.Fprintf(&b, `<drv:WindowsDriverMetaData HardwareID="%s" DriverVerDate="%s" DriverVerVersion="%s" WhqlDriverID="1" Class="%s" Company="C" Provider="%s" Manufacturer="%s" Model="M">`,
			strings.ReplaceAll(x.HardwareID, "&", "&amp;"), x.Date, x.Version, x.Class, x.Provider, x.Manufacturer)
		for os, n := range x.Features {
			fmt.Fprintf(&b, `<drv:FeatureScore OperatingSystem="%s" FeatureScore="%02X"/>`, os, n)
		}
		for _, c := range x.Computers {
			b.WriteString("<drv:TargetComputerHardwareId>" + c + "</drv:TargetComputerHardwareId>")
		}
		b.WriteString("</drv:WindowsDriverMetaData>")
	}
	relations := ""
	if len(prereqs) > 0 {
		relations = "<upd:Prerequisites>"
		for _, p := range prereqs {
			relations += `<upd:UpdateIdentity UpdateID="` + p.String() + `"/>`
		}
		relations += "</upd:Prerequisites>"
	}
	return []byte(`<upd:Update xmlns:upd="` + nsUpdate + `" xmlns:drv="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/WindowsDriver">` +
		`<upd:UpdateIdentity UpdateID="` + g.String() + `" RevisionNumber="1"/><upd:Properties UpdateType="Driver" ExplicitlyDeployable="true" DefaultPropertiesLanguage="en"/>` +
		"<upd:Relationships>" + relations + "</upd:Relationships><upd:ApplicabilityRules><upd:IsInstalled><drv:WindowsDriverInstalled/></upd:IsInstalled><upd:IsInstallable><drv:WindowsDriverInstallable/></upd:IsInstallable>" +
		"<upd:Metadata>" + b.String() + "</upd:Metadata></upd:ApplicabilityRules></upd:Update>")
}

// detectoid is one that every machine has installed.
func detectoid(g guid) []byte {
	return []byte(`<upd:Update xmlns:upd="` + nsUpdate + `"><upd:UpdateIdentity UpdateID="` + g.String() + `" RevisionNumber="1"/><upd:Properties UpdateType="Detectoid" DefaultPropertiesLanguage="en"/>` +
		`<upd:ApplicabilityRules><upd:IsInstalled><lar:True xmlns:lar="http://schemas.microsoft.com/msus/2002/12/LogicalApplicabilityRules"/></upd:IsInstalled></upd:ApplicabilityRules></upd:Update>`)
}

const (
	model1 = "11111111-0000-0000-0000-000000000001" // of the computer, the most specific
	model2 = "11111111-0000-0000-0000-000000000002"
)

// offers asks the simulator which drivers a machine comes to.
func (s *site) drivers(t *testing.T, m terminal.Machine) (*terminal.Terminal, []int) {
	t.Helper()
	a := s.terminal("")
	a.Machine = m
	if err := a.Scan(); err != nil {
		t.Fatal(err)
	}
	got, err := a.Drivers()
	if err != nil {
		t.Fatal(err)
	}
	return a, slices.Clone(got)
}

// TestDriversOneByOne: each rule of 3.1.5.7 decides where those before it are equal.
func TestDriversOneByOne(t *testing.T) {
	const specific, general = `PCI\VEN_10DE&DEV_0193&REV_A2`, `PCI\VEN_10DE&DEV_0193`
	d := func(id, date, version string) terminal.Driver {
		return terminal.Driver{HardwareID: id, Date: date, Version: version, Class: "Display", Provider: "P", Manufacturer: "F"}
	}
	with := func(x terminal.Driver, change func(*terminal.Driver)) terminal.Driver { change(&x); return x }
	machine := terminal.Machine{Computers: []string{model1, model2}, Feature: "amd64.10.0",
		Devices: []terminal.Device{{HardwareIDs: []string{specific}, CompatibleIDs: []string{general}}}}
	installed := func(x terminal.Driver) terminal.Machine {
		m := machine
		m.Devices = []terminal.Device{{HardwareIDs: []string{specific}, CompatibleIDs: []string{general}, Driver: &x}}
		return m
	}
	met, unmet := numbered(90), numbered(91)
	old := d(specific, "2020-01-01", "1.0.0.0")
	for name, c := range map[string]struct {
		machine terminal.Machine
		drivers [][]terminal.Driver // each list a revision
		prereq  guid
		want    []int // revisions, from 1
	}{
		"none for another device": {machine, [][]terminal.Driver{{d(`USB\X`, "2024-01-01", "1.0.0.0")}}, met, nil},
		"a later date":            {machine, [][]terminal.Driver{{old}, {d(specific, "2020-01-02", "0.9.0.0")}}, met, []int{2}},
		"a higher version":        {machine, [][]terminal.Driver{{d(specific, "2020-01-01", "1.0.0.10")}, {d(specific, "2020-01-01", "1.0.0.9")}}, met, []int{1}},
		"the more specific id":    {machine, [][]terminal.Driver{{old}, {d(general, "2024-01-01", "9.0.0.0")}}, met, []int{1}},
		"a compatible id":         {machine, [][]terminal.Driver{{d(strings.ToLower(general), "2024-01-01", "9.0.0.0")}}, met, []int{1}},
		"the feature score": {machine, [][]terminal.Driver{{with(d(general, "2019-01-01", "1.0.0.0"), func(x *terminal.Driver) { x.Features = map[string]int{"amd64.10.0": 0x20} })},
			{with(old, func(x *terminal.Driver) { x.Features = map[string]int{"amd64.10.0": 0xA0} })}}, met, []int{1}},
		"a feature score of another system": {machine, [][]terminal.Driver{{with(d(general, "2019-01-01", "1.0.0.0"), func(x *terminal.Driver) { x.Features = map[string]int{"amd64.6.1": 1} })}, {old}}, met, []int{2}},
		"the computer": {machine, [][]terminal.Driver{{with(d(general, "2019-01-01", "1.0.0.0"), func(x *terminal.Driver) { x.Computers = []string{model1} })},
			{with(old, func(x *terminal.Driver) { x.Computers = []string{model2} })}, {old}}, met, []int{1}},
		"another computer's":           {machine, [][]terminal.Driver{{with(old, func(x *terminal.Driver) { x.Computers = []string{"11111111-0000-0000-0000-000000000009"} })}}, met, nil},
		"prerequisites that are unmet": {machine, [][]terminal.Driver{{old}}, unmet, nil},
		"the same driver is installed": {installed(with(old, func(x *terminal.Driver) { x.Feature = 255 })), [][]terminal.Driver{{old}}, met, nil},
		"an older one is installed":    {installed(with(d(specific, "2019-12-31", "1.0.0.0"), func(x *terminal.Driver) { x.Feature = 255 })), [][]terminal.Driver{{old}}, met, []int{1}},
		"one by another id":            {installed(with(d(general, "2024-01-01", "9.0.0.0"), func(x *terminal.Driver) { x.Feature = 255 })), [][]terminal.Driver{{old}}, met, []int{1}},
		"a better feature is installed": {installed(with(old, func(x *terminal.Driver) { x.Feature, x.Date = 0x10, "2001-01-01" })),
			[][]terminal.Driver{{with(old, func(x *terminal.Driver) { x.Features = map[string]int{"amd64.10.0": 0x20} })}}, met, nil},
		"another maker's printer":  {installed(with(d(specific, "2001-01-01", "1.0.0.0"), func(x *terminal.Driver) { x.Class, x.Feature, x.Provider = "Printer", 255, "Q" })), [][]terminal.Driver{{old}}, met, nil},
		"the same maker's printer": {installed(with(d(specific, "2001-01-01", "1.0.0.0"), func(x *terminal.Driver) { x.Class, x.Feature = "Printer", 255 })), [][]terminal.Driver{{old}}, met, []int{1}},
	} {
		docs := [][]byte{detectoid(met), plain(unmet, 1, "Detectoid", "")}
		for i, list := range c.drivers {
			docs = append(docs, driverDocument(numbered(i+1), []guid{c.prereq}, list...))
		}
		s := newSite(t, newKind(t, nil))
		s.publish(snapshotOf(t, docs...), feed.View{}, "all")
		a, got := s.drivers(t, c.machine)
		var want []int
		for _, n := range c.want {
			want = append(want, n+2) // two detectoids before
		}
		if d := cmp.Diff(want, got); d != "" && len(want)+len(got) > 0 {
			t.Errorf("%s: %s", name, d)
			continue
		}
		again, err := a.Drivers()
		if err != nil || !slices.Equal(again, got) || len(a.Matched) != 0 {
			t.Errorf("%s: a second pass gives %v, new %v, %v", name, again, a.Matched, err)
		}
	}
}

// TestDriversByTheBook: random machines and drivers; the server's choice is
// that of the simulator's own reading of the specification.
func TestDriversByTheBook(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 7))
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	ids := []string{`PCI\A`, `PCI\B`, `PCI\C`, `USB\D`, `HID\E`}
	dates, versions := []string{"2020-01-01", "2021-06-30", "2026-11-01"}, []string{"1.0.0.0", "1.0.0.1", "1.2.0.0", "65535.0.0.0"}
	computers := []string{model1, model2, "11111111-0000-0000-0000-000000000003"}
	some := func(list []string) (out []string) {
		for _, x := range list {
			if rnd.IntN(3) == 0 {
				out = append(out, x)
			}
		}
		return out
	}
	random := func() terminal.Driver {
		x := terminal.Driver{HardwareID: pick(ids...), Date: pick(dates...), Version: pick(versions...), Class: pick("Display", "Printer"), Provider: pick("P", "Q"), Manufacturer: "F"}
		x.Features = map[string]int{}
		if rnd.IntN(2) == 0 {
			x.Features[pick("amd64.10.0", "arm64.10.0")] = rnd.IntN(4)
		}
		if rnd.IntN(3) == 0 {
			x.Computers = some(computers)
		}
		return x
	}
	offered := 0
	for range 60 {
		var docs [][]byte
		var all []terminal.Driver
		var of []int
		met := numbered(900)
		docs = append(docs, detectoid(met))
		for i := range 1 + rnd.IntN(6) {
			list := []terminal.Driver{random(), random()}
			list[0].Revision, list[1].Revision = i, i
			docs = append(docs, driverDocument(numbered(i+1), []guid{met}, list...))
			all, of = append(all, list...), append(of, i+2, i+2)
		}
		s := newSite(t, newKind(t, nil))
		s.publish(snapshotOf(t, docs...), feed.View{}, "all")
		for range 10 {
			m := terminal.Machine{Computers: some(computers), Feature: "amd64.10.0"}
			for range 1 + rnd.IntN(4) {
				d := terminal.Device{HardwareIDs: some(ids), CompatibleIDs: some(ids)}
				if rnd.IntN(2) == 0 {
					x := random()
					x.Features, x.Computers, x.Feature = nil, nil, rnd.IntN(4)
					if len(m.Computers) > 0 && rnd.IntN(2) == 0 {
						x.Computer = m.Computers[0]
					}
					d.Driver = &x
				}
				m.Devices = append(m.Devices, d)
			}
			want := map[int]bool{}
			ties := false
			for _, d := range m.Devices {
				if n, ok := m.Best(d, all); ok {
					want[of[n]] = true
					offered++
					// Two that are alike: the rules leave open which it is.
					back := slices.Clone(all)
					slices.Reverse(back)
					k, _ := m.Best(d, back)
					ties = ties || of[len(all)-1-k] != of[n]
				}
			}
			if ties {
				continue
			}
			if _, got := s.drivers(t, m); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
				t.Fatalf("got %v, want %v\n%+v\n%+v", got, want, m, all)
			}
		}
	}
	if offered < 100 {
		t.Errorf("%d drivers offered: the test shows nothing", offered)
	}
}

// TestDriversAreApproved: a declined driver goes out of scope; terminals of old
// protocols are told no hardware ids; the software pass brings no driver.
func TestDriversAreApproved(t *testing.T) {
	g := numbered(1)
	x := terminal.Driver{HardwareID: `PCI\A`, Date: "2026-01-01", Version: "1.0.0.0"}
	c := snapshotOf(t, driverDocument(g, nil, x), plain(numbered(2), 1, "Software", ""))
	s := newSite(t, newKind(t, nil))
	s.publish(c, feed.View{}, "all")
	rec := &recorder{h: s.h}
	s.h = rec
	m := terminal.Machine{Devices: []terminal.Device{{HardwareIDs: []string{`PCI\A`}}}}
	a, got := s.drivers(t, m)
	if !slices.Equal(got, []int{1}) || a.Known() != 1 || !slices.Equal(a.Matched[1], []string{`pci\a`}) {
		t.Fatalf("drivers %v by %v, %d in the software pass", got, a.Matched, a.Known())
	}
	if os.Getenv("HASHIKE_SAMPLES") != "" {
		rec.validate(t, 6)
	}
	s.publish(c, feed.View{Decisions: []feed.Decision{{Subject: g.String(), Action: "decline"}}}, "all")
	if got, err := a.Drivers(); err != nil || len(got) != 0 {
		t.Errorf("declined, and yet %v, %v", got, err)
	}
	list, err := s.f.Updates(s.views["all"])
	if err != nil || len(list) != 2 {
		t.Errorf("to decide about: %v, %v", list, err)
	}
	for want, body := range map[string]string{
		"InvalidParameters": "<parameters><SystemSpec><Device/></SystemSpec><SkipSoftwareSync>false</SkipSoftwareSync></parameters>",
		"SystemSpec": "<parameters><SystemSpec>" + strings.Repeat("<Device><HardwareIDs><string>a</string></HardwareIDs></Device>", maxDevices+1) +
			"</SystemSpec><SkipSoftwareSync>true</SkipSoftwareSync></parameters>",
		"parameters.SystemSpec": "<parameters><SystemSpec><Device><HardwareIDs>" + strings.Repeat("<string>a</string>", maxDeviceIDs+1) +
			"</HardwareIDs></Device></SystemSpec><SkipSoftwareSync>true</SkipSoftwareSync></parameters>",
	} {
		cookie := "<cookie><EncryptedData>" + s.sealed(t, func(k *cookie) { k.use = cookieSession }) + "</EncryptedData></cookie>"
		if w := s.post("/ClientWebService/client.asmx", requestOf(nsClient, "SyncUpdates", cookie+body)); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %.200s", want, w.Code, w.Body)
		}
	}
	old := "<cookie><EncryptedData>" + s.sealed(t, func(k *cookie) { k.use, k.protocol = cookieSession, "1.5" }) + "</EncryptedData></cookie>"
	s.publish(c, feed.View{}, "all")
	body := "<parameters><SystemSpec><Device><HardwareIDs><string>PCI\\A</string></HardwareIDs></Device></SystemSpec><SkipSoftwareSync>true</SkipSoftwareSync></parameters>"
	if w := s.post("/ClientWebService/client.asmx", requestOf(nsClient, "SyncUpdates", old+body)); w.Code != 200 || strings.Contains(w.Body.String(), "HardwareIds") || !strings.Contains(w.Body.String(), "<NewUpdates><UpdateInfo>") {
		t.Errorf("an old terminal: %d %.300s", w.Code, w.Body)
	}
}

func FuzzDrivers(f *testing.F) {
	d, err := parseDocument(driverDocument(numbered(1), nil, terminal.Driver{HardwareID: "a", Date: "2026-01-01", Version: "1.0.0.0", Computers: []string{model1}, Features: map[string]int{"amd64.10.0": 1}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.piece(core))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, x := range parseDrivers(b) {
			if x.Hardware == "" || len(x.Target) > maxComputers {
				t.Fatalf("%+v", x)
			}
		}
	})
}
