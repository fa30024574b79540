package wsus

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/hashike/hashike/internal/feed"
)

// Local publishing: an installer that somebody put into a folder becomes an
// update of the body's own (microsoft.md 5): a bundle that can be deployed and
// a member with the rules and the file, which is wrapped into a cabinet signed
// with the body's own certificate. Off unless dirs.publish is configured.

const (
	publishDir   = "publish"   // dirs.publish: a folder for each package
	publisherDir = "publisher" // dirs.publisher: key and certificate
	packageFile  = "package.toml"

	maxPackages    = 48 // two documents each, and three categories, in one batch
	maxPackageFile = 64 << 10
	maxInstaller   = 2<<30 - 1<<20 // a cabinet holds no more
)

// localPackage is a package.toml.
type localPackage struct {
	ID          string    `toml:"id"`       // UpdateID, the same for ever: a GUID
	Revision    int32     `toml:"revision"` // raised with each change
	Created     time.Time `toml:"created"`
	File        string    `toml:"file"` // .exe, .msi or .msp beside package.toml
	Arguments   string    `toml:"arguments"`
	Reboot      bool      `toml:"reboot"` // it asks for a restart although it says 0
	Title       text2     `toml:"title"`
	Description text2     `toml:"description"`
	KB          string    `toml:"article"` // shown as KB number; digits
	URL         string    `toml:"url"`
	Supersedes  []string  `toml:"supersedes"`
	ProductCode string    `toml:"product_code"` // of an .msi: its own
	PatchCode   string    `toml:"patch_code"`   // of an .msp
	Arch        string    `toml:"arch"`         // x86, x64, arm64; empty: any
	Installed   presence  `toml:"installed"`    // then it is installed
	Needs       presence  `toml:"needs"`        // only there it is offered; empty: everywhere
}

type text2 struct {
	JA string `toml:"ja"`
	EN string `toml:"en"`
}

// presence is a program by its file's version, or an MSI product.
type presence struct {
	Path    string `toml:"path"` // below csidl: 'Mozilla Thunderbird\thunderbird.exe'
	CSIDL   int    `toml:"csidl"`
	Product string `toml:"product_code"`
	Version string `toml:"version"` // at least
}

func (p presence) empty() bool { return p == presence{} }

var (
	localVersion = regexp.MustCompile(`^[0-9]{1,5}(\.[0-9]{1,5}){1,3}$`)
	localCode    = regexp.MustCompile(`^\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}$`)
	localFolders = []int{36, 37, 38, 41, 42, 43, 44} // Windows, System, Program Files, their x86 and common ones
	processors   = map[string]string{"": "", "x86": "0", "x64": "9", "arm64": "12"}
)

func badPackage(format string, a ...any) error {
	return fmt.Errorf(packageFile+": "+format+": %w", append(a, feed.ErrConfig)...)
}

// parsePackage reads a package.toml. ErrConfig says what is wrong.
func parsePackage(b []byte) (p localPackage, err error) {
	if len(b) > maxPackageFile {
		return p, badPackage("%d bytes", len(b))
	}
	md, err := toml.Decode(string(b), &p)
	if err != nil {
		return p, badPackage("%v", err)
	}
	if k := md.Undecoded(); len(k) > 0 {
		return p, badPackage("unknown key %.60q", k[0].String())
	}
	return p, p.check()
}

func (p *localPackage) check() error {
	if _, err := parseGUID(strings.ToLower(p.ID)); err != nil {
		return badPackage("id = %.60q: a GUID", p.ID)
	}
	ext := strings.ToLower(path.Ext(p.File))
	plain := func(s string) bool {
		return len(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
	}
	switch {
	case p.Revision < 1 || p.Created.IsZero():
		return badPackage("revision from 1, and created = 2026-11-22T00:00:00Z, are required")
	case !feed.ValidPath(p.File) || strings.Contains(p.File, "/") || strings.ContainsFunc(p.File, func(r rune) bool { return r > 0x7e }) || len(p.File) > 200 || ext != ".exe" && ext != ".msi" && ext != ".msp":
		return badPackage("file = %.60q: an .exe, .msi or .msp beside it, in ASCII", p.File)
	case p.Title.JA == "" && p.Title.EN == "":
		return badPackage("title.ja or title.en is required")
	case ext == ".msi" && !localCode.MatchString(p.ProductCode), ext == ".msp" && !localCode.MatchString(p.PatchCode):
		return badPackage("an .msi needs product_code, an .msp patch_code: {GUID}")
	case !slices.Contains([]string{"", "x86", "x64", "arm64"}, p.Arch):
		return badPackage("arch = %.20q", p.Arch)
	case len(p.Supersedes) > 100:
		return badPackage("over 100 superseded")
	case strings.Trim(p.KB, "0123456789") != "" || len(p.KB) > 12:
		return badPackage("article = %.20q: digits", p.KB)
	case p.URL != "" && !strings.HasPrefix(p.URL, "https://") && !strings.HasPrefix(p.URL, "http://"):
		return badPackage("url = %.60q", p.URL)
	case p.Installed.empty():
		return badPackage("[installed] is required: without it the terminal would install again and again")
	}
	for _, s := range []string{p.Title.JA, p.Title.EN, p.Description.JA, p.Description.EN, p.Arguments, p.URL} {
		if !plain(s) {
			return badPackage("%.60q is too long or has control characters", s)
		}
	}
	for _, s := range p.Supersedes {
		if _, err := parseGUID(strings.ToLower(s)); err != nil {
			return badPackage("supersedes %.60q: a GUID", s)
		}
	}
	return errors.Join(p.Installed.check("installed", plain), p.Needs.check("needs", plain))
}

func (p presence) check(name string, plain func(string) bool) error {
	switch {
	case p.empty():
		return nil
	case (p.Path == "") == (p.Product == ""):
		return badPackage("[%s]: either path or product_code", name)
	case p.Version != "" && !localVersion.MatchString(p.Version), name == "installed" && p.Path != "" && p.Version == "":
		return badPackage("[%s] version = %.40q", name, p.Version)
	case p.Path != "" && (!slices.Contains(localFolders, p.CSIDL) || !plain(p.Path) || strings.Contains(p.Path, "..") || strings.ContainsAny(p.Path, `:/`)):
		return badPackage("[%s] path = %.100q below csidl %v", name, p.Path, localFolders)
	case p.Product != "" && !localCode.MatchString(p.Product):
		return badPackage("[%s] product_code = %.60q: {GUID}", name, p.Product)
	}
	return nil
}

// rule is the applicability rule of a presence.
func (p presence) rule() string {
	a := func(name, v string) string { return " " + name + `="` + quoted(v) + `"` }
	switch {
	case p.empty():
		return "<lar:True />"
	case p.Product != "" && p.Version != "":
		return "<msi:MsiProductInstalled" + a("ProductCode", p.Product) + a("VersionMin", p.Version) + " />"
	case p.Product != "":
		return "<msi:MsiProductInstalled" + a("ProductCode", p.Product) + " />"
	case p.Version != "":
		return "<bar:FileVersion" + a("Path", p.Path) + a("Comparison", "GreaterThanOrEqualTo") + a("Version", p.Version) + fmt.Sprintf(` Csidl="%d" />`, p.CSIDL)
	}
	return "<bar:FileExists" + a("Path", p.Path) + fmt.Sprintf(` Csidl="%d" />`, p.CSIDL)
}

func quoted(s string) string {
	var b bytes.Buffer
	writeText(&b, s, true)
	return b.String()
}

// derivedGUID makes an id of another one (RFC 9562, version 5).
func derivedGUID(from guid, name string) (g guid) {
	h := sha1.New()
	h.Write(from[:])
	h.Write([]byte(name))
	copy(g[:], h.Sum(nil))
	g[6], g[8] = g[6]&0x0f|0x50, g[8]&0x3f|0x80
	return g
}

// ownNamespace is the root of the ids of a body's own categories: random, made once.
var ownNamespace = mustGUID("8a6d3f1e-52c7-4b0e-9d35-1f7be0c4a296")

// owner is who publishes, by the organisation in its certificate.
type owner struct {
	name                   string
	company, product, kind guid
}

func newOwner(name string) owner {
	return owner{name, derivedGUID(ownNamespace, "company "+name), derivedGUID(ownNamespace, "product "+name), derivedGUID(ownNamespace, "classification "+name)}
}

const localHead = `<upd:Update xmlns:upd="` + nsUpdate + `" xmlns:bar="http://schemas.microsoft.com/msus/2002/12/BaseApplicabilityRules" xmlns:lar="http://schemas.microsoft.com/msus/2002/12/LogicalApplicabilityRules"` +
	` xmlns:msi="http://schemas.microsoft.com/msus/2002/12/MsiApplicabilityRules" xmlns:cmd="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/CommandLineInstallation"` +
	` xmlns:msp="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/WindowsInstaller" xmlns:cat="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/Category" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">`

// localCreated is the date of the categories: they never change.
const localCreated = "2026-11-22T00:00:00Z"

// categories are the documents that packages belong to: company, product and
// classification, installed everywhere.
func (o owner) categories() []original {
	one := func(g guid, kind, ja, en, prereq string) original {
		if prereq != "" {
			prereq = `<upd:Relationships><upd:Prerequisites><upd:AtLeastOne IsCategory="true"><upd:UpdateIdentity UpdateID="` + prereq + `" /></upd:AtLeastOne></upd:Prerequisites></upd:Relationships>`
		}
		return original{identity{g, 1}, []byte(localHead + `<upd:UpdateIdentity UpdateID="` + g.String() + `" RevisionNumber="1" />` +
			`<upd:Properties DefaultPropertiesLanguage="ja" UpdateType="Category" Handler="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/Category" PublicationState="Published" CreationDate="` + localCreated + `" />` +
			localTexts(text2{ja, en}, text2{}) + prereq + `<upd:ApplicabilityRules><upd:IsInstalled><lar:True /></upd:IsInstalled></upd:ApplicabilityRules>` +
			`<upd:HandlerSpecificData xsi:type="cat:Category"><cat:CategoryInformation CategoryType="` + kind + `" ProhibitsSubcategories="` + fmt.Sprint(kind != "Company") + `" ProhibitsUpdates="` + fmt.Sprint(kind == "Company") + `" /></upd:HandlerSpecificData></upd:Update>`)}
	}
	return []original{
		one(o.company, "Company", o.name, o.name, ""),
		one(o.product, "Product", o.name+"のソフトウェア", "Software of "+o.name, o.company.String()),
		one(o.kind, "UpdateClassification", o.name+"の配布", "Published by "+o.name, ""),
	}
}

func localTexts(title, description text2) string {
	var b strings.Builder
	b.WriteString("<upd:LocalizedPropertiesCollection>")
	for _, l := range []struct{ lang, title, other, description string }{{"ja", title.JA, title.EN, description.JA}, {"en", title.EN, title.JA, description.EN}} {
		if l.title == "" {
			l.title = l.other
		}
		b.WriteString("<upd:LocalizedProperties><upd:Language>" + l.lang + "</upd:Language><upd:Title>" + quoted(l.title) + "</upd:Title>")
		if l.description != "" {
			b.WriteString("<upd:Description>" + quoted(l.description) + "</upd:Description>")
		}
		b.WriteString("</upd:LocalizedProperties>")
	}
	return b.String() + "</upd:LocalizedPropertiesCollection>"
}

// localMark ties a document to what it was made of, in its LegacyName.
func localMark(inputs feed.Digest) string { return "hashike-" + inputs.Hex() }

// documents are a package's two: the member with rules and file, then the
// bundle that can be deployed.
func (p *localPackage) documents(o owner, inputs feed.Digest, f file) []original {
	bundle, _ := parseGUID(strings.ToLower(p.ID)) // checked
	member := derivedGUID(bundle, "member")
	head := func(g guid, attrs string) string {
		return localHead + fmt.Sprintf(`<upd:UpdateIdentity UpdateID="%s" RevisionNumber="%d" />`, g, p.Revision) +
			`<upd:Properties DefaultPropertiesLanguage="ja" UpdateType="Software"` + attrs + ` IsLocallyPublished="true" PublicationState="Published" CreationDate="` + p.Created.UTC().Format(time.RFC3339) + `" LegacyName="` + localMark(inputs) + `">`
	}
	handler, data := p.handler()
	installable := p.Needs.rule()
	if arch := processors[p.Arch]; arch != "" {
		installable = `<lar:And><bar:Processor Architecture="` + arch + `" />` + installable + `</lar:And>`
	}
	sum := f.SHA256.Sum()
	one := head(member, fmt.Sprintf(` Handler="%s" MaxDownloadSize="%d" MinDownloadSize="0"`, handler, f.Size)) +
		`<upd:InstallationBehavior RebootBehavior="CanRequestReboot" /></upd:Properties>` + localTexts(p.Title, p.Description) +
		`<upd:ApplicabilityRules><upd:IsInstalled>` + p.Installed.rule() + `</upd:IsInstalled><upd:IsInstallable>` + installable + `</upd:IsInstallable></upd:ApplicabilityRules>` +
		fmt.Sprintf(`<upd:Files><upd:File Digest="%s" DigestAlgorithm="SHA1" FileName="%s" Size="%d" Modified="%s" PatchingType="SelfContained"><upd:AdditionalDigest Algorithm="SHA256">%s</upd:AdditionalDigest></upd:File></upd:Files>`,
			base64.StdEncoding.EncodeToString(f.SHA1[:]), quoted(f.Name), f.Size, p.Created.UTC().Format(time.RFC3339), base64.StdEncoding.EncodeToString(sum)) +
		data + `</upd:Update>`
	var over strings.Builder
	for _, s := range p.Supersedes {
		over.WriteString(`<upd:UpdateIdentity UpdateID="` + strings.ToLower(s) + `" />`)
	}
	relations := ""
	if over.Len() > 0 {
		relations = "<upd:SupersededUpdates>" + over.String() + "</upd:SupersededUpdates>"
	}
	more := ""
	if p.URL != "" {
		more += "<upd:SupportUrl>" + quoted(p.URL) + "</upd:SupportUrl>"
	}
	if p.KB != "" {
		more += "<upd:KBArticleID>" + p.KB + "</upd:KBArticleID>"
	}
	category := func(g guid) string {
		return `<upd:AtLeastOne IsCategory="true"><upd:UpdateIdentity UpdateID="` + g.String() + `" /></upd:AtLeastOne>`
	}
	two := head(bundle, ` ExplicitlyDeployable="true"`) + more + `</upd:Properties>` + localTexts(p.Title, p.Description) +
		`<upd:Relationships>` + relations + `<upd:Prerequisites>` + category(o.product) + category(o.kind) + `</upd:Prerequisites>` +
		fmt.Sprintf(`<upd:BundledUpdates><upd:UpdateIdentity UpdateID="%s" RevisionNumber="%d" /></upd:BundledUpdates></upd:Relationships></upd:Update>`, member, p.Revision)
	return []original{{identity{member, p.Revision}, []byte(one)}, {identity{bundle, p.Revision}, []byte(two)}}
}

// handler is how the terminal runs the file (microsoft.md 5).
func (p *localPackage) handler() (namespace, data string) {
	const base = "http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/"
	args := quoted(p.Arguments)
	switch strings.ToLower(path.Ext(p.File)) {
	case ".msi":
		return base + "WindowsInstaller", `<upd:HandlerSpecificData xsi:type="msp:WindowsInstallerApp"><msp:MsiData ProductCode="` + p.ProductCode + `" CommandLine="` + args + `" MsiFile="` + quoted(p.File) + `" /></upd:HandlerSpecificData>`
	case ".msp":
		return base + "WindowsInstaller", `<upd:HandlerSpecificData xsi:type="msp:WindowsInstaller"><msp:MspData CommandLine="` + args + `" FullFilePatchCode="` + p.PatchCode + `" /></upd:HandlerSpecificData>`
	}
	return base + "CommandLineInstallation", `<upd:HandlerSpecificData xsi:type="cmd:CommandLineInstallation"><cmd:InstallCommand Program="` + quoted(p.File) + `" Arguments="` + args + `" RebootByDefault="` + fmt.Sprint(p.Reboot) + `" DefaultResult="Failed">` +
		`<cmd:ReturnCode Reboot="` + fmt.Sprint(p.Reboot) + `" Result="Succeeded" Code="0" /><cmd:ReturnCode Reboot="true" Result="Succeeded" Code="3010" /><cmd:ReturnCode Reboot="true" Result="Succeeded" Code="1641" /></cmd:InstallCommand></upd:HandlerSpecificData>`
}

// publisherSettings are what terminals need to accept what is published here;
// nothing where nothing is.
func publisherSettings(c feed.Content, server string) []feed.Setting {
	own := false
	if c != nil {
		for a, err := range c.Artifacts() {
			own = own || err == nil && isPublished(a)
		}
	}
	if !own {
		return nil
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "端末: 自治体の署名証明書を信頼する（PowerShell、管理者として実行）", EN: "Terminals: trust the body's own signing certificate (PowerShell, as administrator)"},
		File:  "hashike-publisher.ps1",
		Body: "# " + server + "\r\n" +
			"Import-Certificate -FilePath .\\publisher.cer -CertStoreLocation Cert:\\LocalMachine\\TrustedPublisher\r\n" +
			"Import-Certificate -FilePath .\\publisher.cer -CertStoreLocation Cert:\\LocalMachine\\Root\r\n" +
			"$p = 'HKLM:\\SOFTWARE\\Policies\\Microsoft\\Windows\\WindowsUpdate'\r\n" +
			"New-Item -Path $p -Force | Out-Null\r\n" +
			"Set-ItemProperty $p AcceptTrustedPublisherCerts 1 -Type DWord\r\n",
		Note: feed.Text{
			JA: "この証明書の鍵を持つ人は、この端末で何でも実行できます。必要な端末だけに入れてください。別の認証局が出した証明書なら、Rootには認証局のものを入れます。ドメインでは同じことをグループポリシー（公開キーのポリシー）で行います。",
			EN: "Whoever has this certificate's key can run anything on this terminal. Put it only where it is needed. If an authority issued it, put that authority's certificate into Root. In a domain do the same by group policy (public key policies).",
		},
	}}
}
