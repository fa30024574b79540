package terminal

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Machine is what applicability rules ask about (microsoft.md 1.12, as far as
// it decides anything without a registry and files).
type Machine struct {
	Files    map[string]string // file versions by "CSIDL|path"
	Products map[string]string // MSI products' versions by product code
	Version  [5]int            // major, minor, build, service pack major, minor
	Product  int               // 1 workstation, 2 domain controller, 3 server
	Suite    int
	Arch     int               // 0 x86, 9 amd64
	Packages map[string]string // CBS packages by name: version; what rules call "parent"
	Has      []string          // names of CBS packages of updates that are installed

	Devices   []Device
	Computers []string // ids of the computer's model, the most specific first
	Feature   string   // operating system in feature scores: amd64.10.0
}

func (m Machine) info(name string) string {
	arch := map[int]string{0: "x86", 9: "x64"}[m.Arch]
	return fmt.Sprintf("<computerInfo><DnsName>%s</DnsName><OSMajorVersion>%d</OSMajorVersion><OSMinorVersion>%d</OSMinorVersion><OSBuildNumber>%d</OSBuildNumber>"+
		"<OSServicePackMajorNumber>%d</OSServicePackMajorNumber><OSServicePackMinorNumber>%d</OSServicePackMinorNumber><OSLocale>ja-JP</OSLocale>"+
		"<BiosReleaseDate>2020-01-01T00:00:00Z</BiosReleaseDate><ProcessorArchitecture>%s</ProcessorArchitecture><SuiteMask>%d</SuiteMask><OldProductType>%d</OldProductType>"+
		"<NewProductType>48</NewProductType><SystemMetrics>0</SystemMetrics><ClientVersionMajorNumber>10</ClientVersionMajorNumber><ClientVersionMinorNumber>0</ClientVersionMinorNumber>"+
		"<ClientVersionBuildNumber>26100</ClientVersionBuildNumber><ClientVersionQfeNumber>1</ClientVersionQfeNumber></computerInfo>",
		name, m.Version[0], m.Version[1], m.Version[2], m.Version[3], m.Version[4], arch, m.Suite, m.Product)
}

// holds evaluates IsInstalled or IsInstallable. Without a rule nothing is so.
func (m Machine) holds(core *node, rule string) bool {
	for _, r := range core.all("ApplicabilityRules", rule) {
		return len(r.children) > 0 && m.eval(r.children[0], core)
	}
	return false
}

func (m Machine) eval(n, core *node) bool {
	switch n.name {
	case "True":
		return true
	case "And":
		return !slices.ContainsFunc(n.children, func(c *node) bool { return !m.eval(c, core) })
	case "Or":
		return slices.ContainsFunc(n.children, func(c *node) bool { return m.eval(c, core) })
	case "Not":
		return len(n.children) == 1 && !m.eval(n.children[0], core)
	case "b.WindowsVersion", "b.PlatformVersion":
		return m.version(n)
	case "b.Processor":
		return n.attr("Architecture") == strconv.Itoa(m.Arch)
	case "CbsPackageInstalled":
		return slices.ContainsFunc(m.assemblies(core), func(a *node) bool { return slices.Contains(m.Has, a.find("assemblyIdentity").attr("name")) })
	case "CbsPackageInstallable":
		return slices.ContainsFunc(m.assemblies(core), m.parent)
	}
	return m.has(n) // registry, WMI: not there
}

// has evaluates rules about files and MSI products.
func (m Machine) has(n *node) bool {
	least := func(have, want string) bool {
		h, w := strings.Split(have, "."), strings.Split(want, ".")
		for i := range w {
			x, y := 0, 0
			if i < len(h) {
				x, _ = strconv.Atoi(h[i])
			}
			if y, _ = strconv.Atoi(w[i]); x != y {
				return x > y
			}
		}
		return true
	}
	file, isFile := m.Files[n.attr("Csidl")+"|"+n.attr("Path")]
	product, isProduct := m.Products[n.attr("ProductCode")]
	switch n.name {
	case "b.FileExists":
		return isFile
	case "b.FileVersion":
		return isFile && n.attr("Comparison") == "GreaterThanOrEqualTo" && least(file, n.attr("Version"))
	case "m.MsiProductInstalled":
		return isProduct && least(product, n.attr("VersionMin"))
	}
	return false
}

func (m Machine) assemblies(core *node) []*node {
	return core.all("ApplicabilityRules", "Metadata", "CbsPackageApplicabilityMetadata", "assembly")
}

// parent: a package may be installed where one of its parents is.
func (m Machine) parent(assembly *node) bool {
	for _, p := range assembly.all("package", "parent") {
		for _, id := range p.every("assemblyIdentity") {
			have, ok := m.Packages[id.attr("name")]
			if ok && compatible(have, id.attr("version"), p.attr("buildCompare"), p.attr("serviceCompare")) {
				return true
			}
		}
	}
	return false
}

// compatible compares a.b.c by buildCompare and d by serviceCompare.
func compatible(have, want, build, service string) bool {
	h, w := strings.Split(have, "."), strings.Split(want, ".")
	if len(h) != 4 || len(w) != 4 || build != "EQ" || service != "GE" {
		return false
	}
	x, _ := strconv.Atoi(h[3])
	y, _ := strconv.Atoi(w[3])
	return slices.Equal(h[:3], w[:3]) && x >= y
}

func (m Machine) version(n *node) bool {
	if v := n.attr("ProductType"); v != "" && v != strconv.Itoa(m.Product) {
		return false
	}
	if v := n.attr("SuiteMask"); v != "" {
		mask, _ := strconv.Atoi(v)
		if all := n.attr("AllSuitesMustBePresent") == "true"; all && m.Suite&mask != mask || !all && m.Suite&mask == 0 {
			return false
		}
	}
	order := 0
	named := false
	for i, a := range []string{"MajorVersion", "MinorVersion", "BuildNumber", "ServicePackMajor", "ServicePackMinor"} {
		v := n.attr(a)
		if v == "" {
			continue
		}
		named = true
		want, _ := strconv.Atoi(v)
		if order == 0 {
			order = m.Version[i] - want
		}
	}
	if !named {
		return true
	}
	switch n.attr("Comparison") {
	case "LessThan":
		return order < 0
	case "LessThanOrEqualTo":
		return order <= 0
	case "GreaterThan":
		return order > 0
	case "GreaterThanOrEqualTo":
		return order >= 0
	}
	return order == 0
}

// node is an element of a fragment.
type node struct {
	name     string
	attrs    []xml.Attr
	children []*node
	text     string
}

func (n *node) attr(name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// find is the first child of that name.
func (n *node) find(name string) *node {
	for _, c := range n.every(name) {
		return c
	}
	return nil
}

func (n *node) every(name string) (out []*node) {
	if n == nil {
		return nil
	}
	for _, c := range n.children {
		if c.name == name {
			out = append(out, c)
		}
		if c.name == "AtLeastOne" {
			out = append(out, c.every(name)...)
		}
	}
	return out
}

// all follows a path of names.
func (n *node) all(path ...string) []*node {
	now := []*node{n}
	for _, name := range path {
		var next []*node
		for _, m := range now {
			next = append(next, m.every(name)...)
		}
		now = next
	}
	return now
}

// parse reads a fragment, which has no root.
func parse(s string) (*node, error) {
	d := xml.NewDecoder(strings.NewReader("<fragment>" + s + "</fragment>"))
	top := &node{}
	open := []*node{top}
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return top.children[0], nil
		}
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			c := &node{name: t.Name.Local, attrs: slices.Clone(t.Attr)}
			p := open[len(open)-1]
			p.children = append(p.children, c)
			open = append(open, c)
		case xml.CharData:
			open[len(open)-1].text += string(t)
		case xml.EndElement:
			open = open[:len(open)-1]
		}
	}
}
