package winget

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/hashike/hashike/internal/feed"
)

// Manifests of the community repository (winget-cli doc/ManifestSpecv1.x.md and
// schemas/JSON/manifests): three or more YAML files for each version, or one
// ("singleton"). Of what they say, only the fields below are taken; addresses
// of downloads, icons, agreements, markets, authentication and the Store never.

// Limits on one manifest file.
const (
	maxManifest = 256 << 10
	maxNodes    = 20_000
	maxDepth    = 8
	maxText     = 16 << 10
)

// document is one YAML file.
type document struct {
	ID, Version, Type, Locale string
	root                      map[string]any
}

// errSkip: a file beside the manifests that is none of its own (a merged one).
var errSkip = errors.New("of no interest")

var goodVersion = regexp.MustCompile(`^[^\\/:\*\?"<>\|\x01-\x1f]{1,128}$`)

var goodLocale = regexp.MustCompile(`^([a-zA-Z]{2,3}|[iI]-[a-zA-Z]+|[xX]-[a-zA-Z]{1,8})(-[a-zA-Z0-9]{1,8})*$`)

func parseDocument(b []byte) (*document, error) {
	if len(b) > maxManifest || !utf8.Valid(b) {
		return nil, fmt.Errorf("manifest of %d bytes", len(b))
	}
	dec := yaml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(b, []byte("\uFEFF"))))
	var n yaml.Node
	if err := dec.Decode(&n); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("manifest: more than one document")
	}
	count := 0
	v, err := plain(&n, "", 0, &count)
	if err != nil {
		return nil, err
	}
	d := &document{}
	var ok bool
	if d.root, ok = v.(map[string]any); !ok {
		return nil, errors.New("manifest: no fields")
	}
	d.ID, d.Version, d.Type, d.Locale = text(d.root, "PackageIdentifier"), text(d.root, "PackageVersion"), text(d.root, "ManifestType"), text(d.root, "PackageLocale")
	switch d.Type {
	case "version", "installer", "singleton":
	case "defaultLocale", "locale":
		if !goodLocale.MatchString(d.Locale) || len(d.Locale) > 20 {
			return nil, fmt.Errorf("manifest: locale %.40q", d.Locale)
		}
	case "merged", "shadow":
		return nil, errSkip
	default:
		return nil, fmt.Errorf("manifest of type %.40q", d.Type)
	}
	if !feed.ValidInstallerID(d.ID) || !goodVersion.MatchString(d.Version) || d.Version == "." || d.Version == ".." {
		return nil, fmt.Errorf("manifest of %.140q, version %.140q", d.ID, d.Version)
	}
	if !feed.ValidPath(d.path()) {
		return nil, fmt.Errorf("manifest of %.140q, version %.140q: no path", d.ID, d.Version)
	}
	if err := harmless(d.root); err != nil {
		return nil, err
	}
	return d, nil
}

// path is where the document lies in the snapshot.
func (d *document) path() string {
	name := d.Type
	if d.Locale != "" && (d.Type == "locale" || d.Type == "defaultLocale") {
		name = d.Type + "." + strings.ToLower(d.Locale)
	}
	return folder + strings.ToLower(d.ID) + "/" + strings.ToLower(d.Version) + "/" + name + ".yaml"
}

// plain turns YAML into what JSON has. Scalars keep their letters ("1.10" is no
// number) but for the few fields that are numbers or truth values.
func plain(n *yaml.Node, key string, depth int, count *int) (any, error) {
	if *count++; *count > maxNodes || depth > maxDepth {
		return nil, errors.New("manifest: too many or too deep fields")
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return plain(n.Content[0], "", depth, count)
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i].Value
			if _, twice := m[k]; twice || n.Content[i].Kind != yaml.ScalarNode {
				return nil, fmt.Errorf("manifest: field %.40q twice", k)
			}
			v, err := plain(n.Content[i+1], k, depth+1, count)
			if err != nil {
				return nil, err
			}
			if v != nil {
				m[k] = v
			}
		}
		return m, nil
	case yaml.SequenceNode:
		var l []any
		for _, c := range n.Content {
			v, err := plain(c, key, depth+1, count)
			if err != nil {
				return nil, err
			}
			if v != nil {
				l = append(l, v)
			}
		}
		return l, nil
	case yaml.ScalarNode:
		return scalar(n, key)
	}
	return nil, errors.New("manifest: anchors and aliases are not read")
}

func scalar(n *yaml.Node, key string) (any, error) {
	if n.Tag == "!!null" || n.Value == "" || len(n.Value) > maxText {
		return nil, nil
	}
	switch key {
	case "InstallerSuccessCodes", "InstallerReturnCode":
		v, err := strconv.ParseInt(n.Value, 0, 64)
		if err != nil {
			return nil, fmt.Errorf("manifest: %s %.40q", key, n.Value)
		}
		return v, nil
	case "InstallerAbortsTerminal", "InstallLocationRequired", "RequireExplicitUpgrade", "DisplayInstallWarnings", "DownloadCommandProhibited", "ArchiveBinariesDependOnPath":
		return strings.EqualFold(n.Value, "true"), nil
	}
	return n.Value, nil
}

// harmless refuses arguments that make a verified installer run something else.
// They come from nobody who signs, and run as the system.
func harmless(v any) error {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if t, ok := x.(string); ok && k == "RelativeFilePath" && (strings.Contains(t, "..") || strings.ContainsAny(t, ":") || strings.HasPrefix(t, `\`) || strings.HasPrefix(t, "/")) {
				return fmt.Errorf("manifest: file %.100q leads elsewhere", t)
			}
			if k == "InstallerSwitches" {
				m, _ := x.(map[string]any)
				for name, s := range m {
					if t, ok := s.(string); ok && dangerous(t) {
						return fmt.Errorf("manifest: argument %s %.100q leads elsewhere", name, t)
					}
				}
			}
			if err := harmless(x); err != nil {
				return err
			}
		}
	case []any:
		for _, x := range v {
			if err := harmless(x); err != nil {
				return err
			}
		}
	}
	return nil
}

func dangerous(arguments string) bool {
	s := strings.ToUpper(arguments)
	for _, w := range []string{"://", `\\`, "TRANSFORMS", "PATCH=", "SOURCELIST", "CUSTOMACTIONDATA", "&", "|", "`", "%COMSPEC%", "CMD.EXE", "POWERSHELL"} {
		if strings.Contains(s, w) {
			return true
		}
	}
	return strings.ContainsFunc(arguments, func(r rune) bool { return r < ' ' })
}

func text(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}

func list(m map[string]any, key string) []any {
	l, _ := m[key].([]any)
	return l
}

// since names the fields of an installer that are taken, and the contract
// version (minor) that brought each.
func installerFields() map[string]int {
	return map[string]int{
		"InstallerSha256": 0, "InstallerUrl": 0, "Architecture": 0, "InstallerLocale": 0, "Platform": 0, "MinimumOSVersion": 0, "InstallerType": 0, "Scope": 0,
		"SignatureSha256": 0, "InstallModes": 0, "InstallerSwitches": 0, "InstallerSuccessCodes": 0, "UpgradeBehavior": 0, "Commands": 0, "Protocols": 0,
		"FileExtensions": 0, "Dependencies": 0, "PackageFamilyName": 0, "ProductCode": 0, "Capabilities": 0, "RestrictedCapabilities": 0,
		"ReleaseDate": 1, "InstallerAbortsTerminal": 1, "InstallLocationRequired": 1, "RequireExplicitUpgrade": 1, "UnsupportedOSArchitectures": 1,
		"AppsAndFeaturesEntries": 1, "ElevationRequirement": 1, "ExpectedReturnCodes": 1,
		"NestedInstallerType": 4, "NestedInstallerFiles": 4, "DisplayInstallWarnings": 4, "UnsupportedArguments": 4, "InstallationMetadata": 4,
		"DownloadCommandProhibited": 6, "RepairBehavior": 7, "ArchiveBinariesDependOnPath": 9,
	}
}

// localeFields likewise, of a locale.
func localeFields() map[string]int {
	return map[string]int{
		"PackageLocale": 0, "Publisher": 0, "PublisherUrl": 0, "PublisherSupportUrl": 0, "PrivacyUrl": 0, "Author": 0, "PackageName": 0, "PackageUrl": 0,
		"License": 0, "LicenseUrl": 0, "Copyright": 0, "CopyrightUrl": 0, "ShortDescription": 0, "Description": 0, "Tags": 0, "Moniker": 0,
		"ReleaseNotes": 1, "ReleaseNotesUrl": 1, "InstallationNotes": 4, "PurchaseUrl": 4, "Documentations": 4,
	}
}

// manifest is one version of a package, its files joined.
type manifest struct {
	ID, Version string
	Default     map[string]any
	Locales     []map[string]any
	Installers  []map[string]any
}

// join makes one manifest of the documents of one identifier and version.
func join(docs []*document) (*manifest, error) {
	m := &manifest{ID: docs[0].ID, Version: docs[0].Version}
	var installers map[string]any
	whole := false // a singleton, or with the file that says so
	for _, d := range docs {
		switch d.Type {
		case "singleton":
			m.Default, installers, whole = d.root, d.root, true
		case "version":
			whole = true
		case "installer":
			installers = d.root
		case "defaultLocale":
			m.Default = d.root
		case "locale":
			m.Locales = append(m.Locales, inBounds(chosen(d.root, localeFields())))
		}
	}
	if !whole || len(list(installers, "Installers")) == 0 || m.Default == nil {
		return nil, fmt.Errorf("manifest of %s %s is not complete", m.ID, m.Version)
	}
	m.Default = inBounds(chosen(m.Default, localeFields()))
	for _, k := range []string{"PackageLocale", "Publisher", "PackageName", "ShortDescription", "License"} {
		if text(m.Default, k) == "" {
			return nil, fmt.Errorf("manifest of %s %s: no %s", m.ID, m.Version, k)
		}
	}
	for _, one := range list(installers, "Installers") {
		if i, ok := one.(map[string]any); ok {
			m.Installers = append(m.Installers, flat(installers, i))
		}
	}
	slices.SortFunc(m.Locales, func(a, b map[string]any) int {
		return strings.Compare(text(a, "PackageLocale"), text(b, "PackageLocale"))
	})
	return m, nil
}

// inBounds drops texts and addresses that the schemas do not take: the client
// refuses a whole answer for one of them.
func inBounds(l map[string]any) map[string]any {
	bounds := map[string][2]int{
		"Publisher": {2, 256}, "Author": {2, 256}, "PackageName": {2, 256}, "License": {3, 512}, "Copyright": {3, 512}, "ShortDescription": {3, 256},
		"Description": {3, 10_000}, "ReleaseNotes": {1, 10_000}, "InstallationNotes": {1, 10_000}, "Moniker": {1, 40}, "PackageLocale": {2, 20},
	}
	for k, v := range l {
		s, isText := v.(string)
		n := utf8.RuneCountInString(s)
		b, bounded := bounds[k]
		switch {
		case bounded && (!isText || n < b[0] || n > b[1]), k == "Moniker" && strings.ContainsAny(s, " \t\n"),
			strings.HasSuffix(k, "Url") && (n > 2048 || !strings.HasPrefix(strings.ToLower(s), "http")):
			delete(l, k)
		case k == "Tags":
			tags := slices.DeleteFunc(slices.Clone(list(l, k)), func(t any) bool {
				s, ok := t.(string)
				return !ok || utf8.RuneCountInString(s) > 40 || strings.ContainsAny(s, " \t\n\u3000")
			})
			l[k] = tags[:min(len(tags), 16)]
		}
	}
	return l
}

func chosen(from map[string]any, fields map[string]int) map[string]any {
	out := map[string]any{}
	for k := range fields {
		if v, ok := from[k]; ok {
			out[k] = v
		}
	}
	return out
}

// rightTypes drops fields that are a list where a text belongs, and so on: the
// client would refuse the whole answer.
func rightTypes(i map[string]any) map[string]any {
	for k, v := range i {
		ok := false
		switch k {
		case "Platform", "InstallModes", "InstallerSuccessCodes", "Commands", "Protocols", "FileExtensions", "Capabilities", "RestrictedCapabilities",
			"UnsupportedOSArchitectures", "AppsAndFeaturesEntries", "ExpectedReturnCodes", "NestedInstallerFiles", "UnsupportedArguments":
			_, ok = v.([]any)
		case "InstallerSwitches":
			var m map[string]any
			if m, ok = v.(map[string]any); ok {
				i[k] = switches(m)
			}
		case "Dependencies", "InstallationMetadata":
			_, ok = v.(map[string]any)
		case "InstallerAbortsTerminal", "InstallLocationRequired", "RequireExplicitUpgrade", "DisplayInstallWarnings", "DownloadCommandProhibited", "ArchiveBinariesDependOnPath":
			_, ok = v.(bool)
		default:
			_, ok = v.(string)
		}
		if !ok {
			delete(i, k)
		}
	}
	return i
}

// switches are the arguments that the contract knows, as texts.
func switches(from map[string]any) map[string]any {
	out := map[string]any{}
	for _, k := range []string{"Silent", "SilentWithProgress", "Interactive", "InstallLocation", "Log", "Upgrade", "Custom", "Repair"} {
		if s := text(from, k); s != "" && (len(s) <= 512 || k == "Custom" && len(s) <= 2048) {
			out[k] = s
		}
	}
	return out
}

// flat gives an installer what the manifest says for all of them: the REST form
// has no defaults (ManifestYamlPopulator.cpp). Arguments are joined one by one;
// codes and family names belong to the types that have them.
func flat(root, one map[string]any) map[string]any {
	out := rightTypes(chosen(root, installerFields()))
	delete(out, "InstallerSha256")
	for k, v := range rightTypes(chosen(one, installerFields())) {
		out[k] = v
	}
	root, one = rightTypes(chosen(root, installerFields())), rightTypes(chosen(one, installerFields()))
	if a, ok := root["InstallerSwitches"].(map[string]any); ok {
		all := map[string]any{}
		for k, v := range a {
			all[k] = v
		}
		if b, ok := one["InstallerSwitches"].(map[string]any); ok {
			for k, v := range b {
				all[k] = v
			}
		}
		out["InstallerSwitches"] = all
	}
	switch cmp.Or(text(out, "NestedInstallerType"), text(out, "InstallerType")) {
	case "msix", "appx":
		delete(out, "ProductCode")
		delete(out, "AppsAndFeaturesEntries")
	default:
		delete(out, "PackageFamilyName")
		delete(out, "SignatureSha256")
	}
	return out
}
