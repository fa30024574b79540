package winget

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// pkg is one package of the source.
type pkg struct {
	id       string
	versions []*version // newest first
}

// version is one version of a package, as the newest contract has it; older
// contracts get fewer fields (answer.go).
type version struct {
	manifest
	found // what a search looks at
}

// found is what searches compare, gathered once.
type found struct {
	names, publishers, monikers, commands, tags, types []string
	families, products, upgrades, shown                []string
}

// place is where a file lies.
type place struct {
	view feed.View
	at   feed.Artifact
}

// catalogue is what one ring sees.
type catalogue struct {
	packages []*pkg           // by identifier in lower case
	files    map[string]place // by SHA-256 in lower-case hex
	Left     []string         // what is not offered, and why: for the log
}

// Limits on a catalogue: a mirror's, not the world's.
const (
	maxFilesServed = 500_000
	maxInstallers  = 1024 // of one version (OpenAPI)
)

// build gathers what a ring's publications have.
func (s *source) build(own feed.View, has bool, peers []feed.Peer) (*catalogue, error) {
	c := &catalogue{files: map[string]place{}}
	var records []feed.Installer
	current := map[string]bool{} // digests of the present publications: only these are offered
	for _, p := range peers {
		list, err := feed.Installers(p.Feed, p.View)
		if err != nil { // the others' packages are still good
			c.Left = append(c.Left, fmt.Sprintf("feed %s: %v", p.View.Header().Feed, err))
			continue
		}
		records = append(records, list...)
		if err := c.index(p.View, current); err != nil {
			return nil, err
		}
	}
	all := map[string]*version{}
	claimed := map[string]bool{}
	if has {
		docs, err := s.manifests(own)
		if err != nil {
			return nil, err
		}
		for _, d := range docs {
			m, err := join(d)
			if err != nil {
				c.Left = append(c.Left, err.Error())
				continue
			}
			c.imported(m, current, claimed, all)
		}
	}
	c.generated(records, claimed, all)
	c.order(all)
	return c, nil
}

// index notes where each file lies: the newest publication's first, then older
// ones, for downloads that began with them.
func (c *catalogue) index(v feed.View, current map[string]bool) error {
	for i := -1; i < len(v.Older); i++ {
		from := v.Content
		if i >= 0 {
			from = v.Older[i]
		}
		for a, err := range from.Artifacts() {
			if err != nil {
				return err
			}
			_, held := v.Withheld[a.Path]
			hex := a.Digest.Hex()
			// Indexes and signatures of other feeds are no installers.
			if held && i < 0 || a.Class == feed.Metadata || len(c.files) >= maxFilesServed {
				continue
			}
			if _, known := c.files[hex]; !known {
				c.files[hex] = place{feed.View{Content: from}, a}
			}
			if i < 0 {
				current[hex] = true
			}
		}
	}
	return nil
}

// manifests reads the documents of the own publication, by package and version.
func (s *source) manifests(v feed.View) ([][]*document, error) {
	by := map[string][]*document{}
	var keys []string
	for a, err := range v.Artifacts() {
		if err != nil {
			return nil, err
		}
		if _, held := v.Withheld[a.Path]; held || a.Path == indexPath {
			continue
		}
		b, err := read(v.Content, a, maxManifest)
		if err != nil {
			return nil, err
		}
		d, err := parseDocument(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Path, err)
		}
		k := path.Dir(a.Path)
		if by[k] == nil {
			keys = append(keys, k)
		}
		by[k] = append(by[k], d)
	}
	var out [][]*document
	for _, k := range keys {
		out = append(out, by[k])
	}
	return out, nil
}

// imported takes a manifest's installers whose SHA-256 is a published file's.
func (c *catalogue) imported(m *manifest, current, claimed map[string]bool, all map[string]*version) {
	var keep []map[string]any
	for _, i := range m.Installers {
		hex := strings.ToLower(text(i, "InstallerSha256"))
		if !current[hex] || !usable(i) {
			c.Left = append(c.Left, fmt.Sprintf("manifest %s %s: installer %.64s is not published here, or of no use", m.ID, m.Version, hex))
			continue
		}
		claimed[hex] = true
		i["InstallerSha256"] = strings.ToUpper(hex)
		keep = append(keep, i)
	}
	if len(keep) == 0 {
		return
	}
	m.Installers = keep[:min(len(keep), maxInstallers)]
	all[key(m.ID, m.Version)] = &version{manifest: *m}
}

func key(id, version string) string { return strings.ToLower(id) + "\x00" + strings.ToLower(version) }

// usable: what the client refuses a whole manifest for.
func usable(i map[string]any) bool {
	if text(i, "Architecture") == "" {
		return false
	}
	switch text(i, "InstallerType") {
	case "msix", "appx", "msi", "wix", "inno", "nullsoft", "burn":
		return true
	case "exe": // without arguments it would ask questions that nobody sees
		sw, _ := i["InstallerSwitches"].(map[string]any)
		return text(sw, "Silent") != "" || text(sw, "SilentWithProgress") != ""
	case "zip":
		return text(i, "NestedInstallerType") != "" && len(list(i, "NestedInstallerFiles")) > 0
	}
	return false
}

// generated describes from records what no manifest describes.
func (c *catalogue) generated(records []feed.Installer, claimed map[string]bool, all map[string]*version) {
	for _, r := range records {
		if claimed[r.Digest.Hex()] || r.Type == "msp" || r.Type == "zip" || !goodVersion.MatchString(r.Version) {
			continue
		}
		i := describe(r)
		if !usable(i) {
			c.Left = append(c.Left, fmt.Sprintf("%s %s: %s without silent arguments", r.ID, r.Version, r.Path))
			continue
		}
		k := key(r.ID, r.Version)
		v := all[k]
		if v == nil {
			v = &version{manifest: manifest{ID: r.ID, Version: r.Version, Default: locale(r)}}
			all[k] = v
		}
		if len(v.Installers) < maxInstallers {
			v.Installers = append(v.Installers, i)
		}
	}
}

// locale is the text of a package that nobody wrote one for.
func locale(r feed.Installer) map[string]any {
	cut := func(s string, n int) string {
		for len(s) > n {
			r := []rune(s)
			s = string(r[:len(r)-1])
		}
		return s
	}
	least := func(s, instead string) string {
		if len([]rune(s)) < 3 {
			return instead
		}
		return s
	}
	m := map[string]any{
		"PackageLocale": "en-US", "Publisher": cut(least(r.Publisher, r.Publisher+"  "), 256), "PackageName": cut(least(r.Name, r.Name+"  "), 256),
		"License": cut(least(r.License, "See the publisher's terms"), 512), "ShortDescription": cut(least(r.Summary, r.Name+" ("+r.Publisher+")"), 256),
	}
	if strings.HasPrefix(r.Home, "https://") || strings.HasPrefix(r.Home, "http://") {
		m["PackageUrl"] = r.Home
	}
	return m
}

// describe is an installer as its record has it.
func describe(r feed.Installer) map[string]any {
	m := map[string]any{
		"Architecture": r.Arch, "InstallerType": r.Type, "InstallerSha256": strings.ToUpper(r.Digest.Hex()), "Path": r.Path,
	}
	put := func(k, v string) {
		if v != "" {
			m[k] = v
		}
	}
	put("Scope", r.Scope)
	put("MinimumOSVersion", r.MinOS)
	if goodLocale.MatchString(r.Locale) {
		put("InstallerLocale", r.Locale)
	}
	if r.Silent != "" {
		m["InstallerSwitches"] = map[string]any{"Silent": r.Silent, "SilentWithProgress": r.Silent}
	}
	codes := []any{}
	for _, n := range r.Success {
		switch n {
		case 3010:
			m["ExpectedReturnCodes"] = append(list(m, "ExpectedReturnCodes"), map[string]any{"InstallerReturnCode": int64(n), "ReturnResponse": "rebootRequiredToFinish"})
		case 1641:
			m["ExpectedReturnCodes"] = append(list(m, "ExpectedReturnCodes"), map[string]any{"InstallerReturnCode": int64(n), "ReturnResponse": "rebootInitiated"})
		case 0:
		default:
			codes = append(codes, int64(n))
		}
	}
	if len(codes) > 0 {
		m["InstallerSuccessCodes"] = codes
	}
	if r.Type == "msix" || r.Type == "appx" {
		put("PackageFamilyName", r.FamilyName)
		put("SignatureSha256", strings.ToUpper(r.Signature.Hex()))
		return m
	}
	m["UpgradeBehavior"] = "install"
	put("ProductCode", r.ProductCode)
	entries := r.Entries
	if len(entries) == 0 && (r.ProductCode != "" || r.UpgradeCode != "") {
		entries = []feed.AddRemove{{ProductCode: r.ProductCode, UpgradeCode: r.UpgradeCode}}
	}
	var out []any
	for _, e := range entries {
		one := map[string]any{}
		for k, v := range map[string]string{"DisplayName": e.Name, "Publisher": e.Publisher, "DisplayVersion": e.Version, "ProductCode": e.ProductCode, "UpgradeCode": e.UpgradeCode, "InstallerType": e.Type} {
			if v != "" && len(v) <= 256 {
				one[k] = v
			}
		}
		if e.Version == r.Version {
			delete(one, "DisplayVersion") // only where it differs: winget maps versions by it
		}
		if len(one) > 0 {
			out = append(out, one)
		}
	}
	if len(out) > 0 {
		m["AppsAndFeaturesEntries"] = out
	}
	return m
}

// order sorts packages and versions and gathers what searches compare.
func (c *catalogue) order(all map[string]*version) {
	by := map[string]*pkg{}
	for _, v := range all {
		v.gather()
		k := strings.ToLower(v.ID)
		p := by[k]
		if p == nil {
			p = &pkg{id: v.ID}
			by[k] = p
			c.packages = append(c.packages, p)
		}
		p.versions = append(p.versions, v)
		p.id = min(p.id, v.ID) // one spelling, whichever version came first
	}
	slices.SortFunc(c.packages, func(a, b *pkg) int { return cmp.Compare(strings.ToLower(a.id), strings.ToLower(b.id)) })
	for _, p := range c.packages {
		slices.SortFunc(p.versions, func(a, b *version) int {
			return cmp.Or(compareVersions(b.Version, a.Version), cmp.Compare(a.Version, b.Version))
		})
	}
}

func (v *version) gather() {
	add := func(to *[]string, s string) {
		if s != "" && !slices.Contains(*to, s) {
			*to = append(*to, s)
		}
	}
	for _, l := range append([]map[string]any{v.Default}, v.Locales...) {
		add(&v.names, text(l, "PackageName"))
		add(&v.publishers, text(l, "Publisher"))
		add(&v.monikers, text(l, "Moniker"))
		for _, t := range list(l, "Tags") {
			if s, ok := t.(string); ok {
				add(&v.tags, s)
			}
		}
	}
	for _, i := range v.Installers {
		add(&v.types, text(i, "InstallerType"))
		add(&v.families, text(i, "PackageFamilyName"))
		add(&v.products, text(i, "ProductCode"))
		for _, t := range list(i, "Commands") {
			if s, ok := t.(string); ok {
				add(&v.commands, s)
			}
		}
		for _, e := range list(i, "AppsAndFeaturesEntries") {
			m, _ := e.(map[string]any)
			add(&v.names, text(m, "DisplayName"))
			add(&v.publishers, text(m, "Publisher"))
			add(&v.products, text(m, "ProductCode"))
			add(&v.upgrades, text(m, "UpgradeCode"))
			add(&v.shown, text(m, "DisplayVersion"))
		}
	}
}

// compareVersions orders versions as winget does: part by part, each first by
// its number, then by the rest of its text (Versions.cpp).
func compareVersions(a, b string) int {
	as, bs := strings.Split(strings.TrimPrefix(strings.ToLower(a), "v"), "."), strings.Split(strings.TrimPrefix(strings.ToLower(b), "v"), ".")
	for i := range max(len(as), len(bs)) {
		var x, y string
		if i < len(as) {
			x = as[i]
		}
		if i < len(bs) {
			y = bs[i]
		}
		xn, xt := part(x)
		yn, yt := part(y)
		if c := cmp.Or(cmp.Compare(xn, yn)); c != 0 {
			return c
		}
		switch { // "1.0-beta" is before "1.0"
		case xt == yt:
		case xt == "":
			return 1
		case yt == "":
			return -1
		default:
			return cmp.Compare(xt, yt)
		}
	}
	return 0
}

func part(s string) (n uint64, rest string) {
	i := 0
	for ; i < len(s) && i < 18 && s[i] >= '0' && s[i] <= '9'; i++ {
		n = n*10 + uint64(s[i]-'0')
	}
	return n, strings.TrimSpace(s[i:])
}

// peers opens what the configured feeds show to a ring. One that shows nothing
// yet is left out.
func (s *source) peers(sv feed.Serving, ring string) ([]feed.Peer, error) {
	var out []feed.Peer
	for _, name := range s.cfg.Feeds {
		p, err := sv.Peer(name, ring)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}
