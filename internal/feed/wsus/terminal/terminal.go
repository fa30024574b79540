// Package terminal simulates the Windows Update agent of one machine, written
// from MS-WUSP and not from our server: tests and load runs use it.
package terminal

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	nsClient = "http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService"
	nsAuth   = "http://www.microsoft.com/SoftwareDistribution/Server/SimpleAuthWebService"
)

// Terminal is one machine and what its agent has learnt.
type Terminal struct {
	Base    string // WUServer, without a slash at the end
	Do      func(*http.Request) (*http.Response, error)
	Machine Machine
	ID      string // SusClientId
	Name    string
	Group   string
	Watch   func(request, answer []byte) // sees every SOAP message; may be nil

	Rounds   []int            // NewUpdates of each SyncUpdates
	Matched  map[int][]string // hardware ids by which the drivers of the last pass were chosen
	drivers  []int            // revision ids of drivers it knows
	cookie   string
	updates  map[int]*Update // by revision id
	nonLeaf  []int
	cached   []int
	byUpdate map[string]*Update
}

// Update is one revision that the agent knows.
type Update struct {
	ID        int
	UpdateID  string
	Action    string
	Leaf      bool
	Installed bool
	core      *node
}

// Fault is a SOAP fault.
type Fault struct{ Code, Message string }

func (f *Fault) Error() string { return f.Code + ": " + f.Message }

type envelope struct {
	Body struct {
		Fault *struct {
			Code    string `xml:"detail>ErrorCode"`
			Message string `xml:"detail>Message"`
		} `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault"`
		Inner []byte `xml:",innerxml"`
	} `xml:"http://schemas.xmlsoap.org/soap/envelope/ Body"`
}

// Call makes one SOAP call; body stands within the operation's element, and the
// answer's response element is decoded into out.
func (t *Terminal) Call(path, ns, op, body string, out any) error {
	req := `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><` + op + ` xmlns="` + ns + `">` + body + `</` + op + `></s:Body></s:Envelope>`
	r, err := http.NewRequest(http.MethodPost, t.Base+path, strings.NewReader(req))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "text/xml; charset=utf-8")
	r.Header.Set("SOAPAction", `"`+ns+"/"+op+`"`)
	r.Header.Set("User-Agent", "Windows-Update-Agent/10.0.10011.16384 Client-Protocol/2.90")
	res, err := t.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if t.Watch != nil && res.StatusCode == http.StatusOK {
		t.Watch([]byte(req), b)
	}
	var e envelope
	if err := xml.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("%s: %s: %w", op, res.Status, err)
	}
	if e.Body.Fault != nil {
		return &Fault{e.Body.Fault.Code, e.Body.Fault.Message}
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", op, res.Status)
	}
	if err := xml.Unmarshal(e.Body.Inner, out); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

const clientPath = "/ClientWebService/client.asmx"

// Begin does what an agent does before its first scan.
func (t *Terminal) Begin() error {
	t.updates, t.byUpdate = map[int]*Update{}, map[string]*Update{}
	register, err := t.handshake()
	if err != nil || !register {
		return err
	}
	var none struct{}
	return t.Call(clientPath, nsClient, "RegisterComputer", t.Cookie()+t.Machine.info(t.Name), &none)
}

// Renew does what an agent does on another day: its cookie has expired, what it
// knows it keeps.
func (t *Terminal) Renew() error {
	t.Rounds = nil
	_, err := t.handshake()
	return err
}

// handshake gets a cookie; register says whether the server wants to know more.
func (t *Terminal) handshake() (register bool, err error) {
	var conf struct {
		Result struct {
			LastChange string
			Register   bool                           `xml:"IsRegistrationRequired"`
			PlugIn     string                         `xml:"AuthInfo>AuthPlugInInfo>PlugInID"`
			Service    string                         `xml:"AuthInfo>AuthPlugInInfo>ServiceUrl"`
			Properties []struct{ Name, Value string } `xml:"Properties>ConfigurationProperty"`
		} `xml:"GetConfigResult"`
	}
	if err := t.Call(clientPath, nsClient, "GetConfig", "<protocolVersion>2.90</protocolVersion>", &conf); err != nil {
		return false, err
	}
	if len(conf.Result.Properties) == 0 {
		return false, fmt.Errorf("GetConfig without Properties: 0x8024402A")
	}
	var auth struct {
		PlugIn string `xml:"GetAuthorizationCookieResult>PlugInId"`
		Data   string `xml:"GetAuthorizationCookieResult>CookieData"`
	}
	body := "<clientId>" + t.ID + "</clientId><targetGroupName>" + t.Group + "</targetGroupName><dnsName>" + t.Name + "</dnsName>"
	if err := t.Call("/"+conf.Result.Service, nsAuth, "GetAuthorizationCookie", body, &auth); err != nil {
		return false, err
	}
	var got struct {
		Data string `xml:"GetCookieResult>EncryptedData"`
	}
	now := time.Now().UTC().Format(time.RFC3339)
	body = "<authCookies><AuthorizationCookie><PlugInId>" + auth.PlugIn + "</PlugInId><CookieData>" + auth.Data + "</CookieData></AuthorizationCookie></authCookies>" +
		"<oldCookie><Expiration>" + now + "</Expiration></oldCookie><lastChange>" + conf.Result.LastChange + "</lastChange><currentTime>" + now + "</currentTime><protocolVersion>2.90</protocolVersion>"
	if err := t.Call(clientPath, nsClient, "GetCookie", body, &got); err != nil {
		return false, err
	}
	t.cookie = got.Data
	return conf.Result.Register, nil
}

// Cookie is the cookie element of a call.
func (t *Terminal) Cookie() string {
	return "<cookie><Expiration>" + time.Now().UTC().Add(time.Hour).Format(time.RFC3339) + "</Expiration><EncryptedData>" + t.cookie + "</EncryptedData></cookie>"
}

type syncResult struct {
	New []struct {
		ID     int
		Action string `xml:"Deployment>Action"`
		IsLeaf bool
		XML    string `xml:"Xml"`
		// Hardware are the ids by which a driver was chosen.
		Hardware []string `xml:"Deployment>HardwareIds>string"`
	} `xml:"SyncUpdatesResult>NewUpdates>UpdateInfo"`
	Gone    []int `xml:"SyncUpdatesResult>OutOfScopeRevisionIDs>int"`
	Changed []struct {
		ID     int
		Action string `xml:"Deployment>Action"`
		IsLeaf bool
	} `xml:"SyncUpdatesResult>ChangedUpdates>UpdateInfo"`
	Truncated bool   `xml:"SyncUpdatesResult>Truncated"`
	Cookie    string `xml:"SyncUpdatesResult>NewCookie>EncryptedData"`
}

// Scan synchronises to the fixed point.
func (t *Terminal) Scan() error {
	for range 200 {
		var r syncResult
		body := t.Cookie() + "<parameters><ExpressQuery>false</ExpressQuery>" + ints("InstalledNonLeafUpdateIDs", t.nonLeaf) + ints("OtherCachedUpdateIDs", t.cached) +
			"<SkipSoftwareSync>false</SkipSoftwareSync><NeedTwoGroupOutOfScopeUpdates>true</NeedTwoGroupOutOfScopeUpdates></parameters>"
		if err := t.Call(clientPath, nsClient, "SyncUpdates", body, &r); err != nil {
			return err
		}
		t.Rounds = append(t.Rounds, len(r.New))
		t.cookie = r.Cookie
		more, err := t.learn(r)
		if err != nil || !more && !r.Truncated {
			return err
		}
	}
	return fmt.Errorf("no fixed point after %v", t.Rounds)
}

// learn takes one answer in; more says that it may make further updates visible.
func (t *Terminal) learn(r syncResult) (more bool, err error) {
	for _, id := range r.Gone {
		delete(t.updates, id)
		t.nonLeaf = slices.DeleteFunc(t.nonLeaf, func(n int) bool { return n == id })
		t.cached = slices.DeleteFunc(t.cached, func(n int) bool { return n == id })
	}
	for _, c := range r.Changed {
		u := t.updates[c.ID]
		if u == nil {
			return false, fmt.Errorf("changed %d, which was never sent", c.ID)
		}
		u.Action, u.Leaf = c.Action, c.IsLeaf
	}
	for _, n := range r.New {
		if t.updates[n.ID] != nil {
			return false, fmt.Errorf("%d sent twice", n.ID)
		}
		if n.Action == "" {
			return false, fmt.Errorf("%d without a deployment: 0x80070057", n.ID)
		}
		core, err := parse(n.XML)
		if err != nil {
			return false, fmt.Errorf("%d: %w", n.ID, err)
		}
		u := &Update{ID: n.ID, Action: n.Action, Leaf: n.IsLeaf, core: core, UpdateID: strings.ToLower(core.find("UpdateIdentity").attr("UpdateID"))}
		t.updates[n.ID], t.byUpdate[u.UpdateID] = u, u
	}
	for _, n := range r.New {
		u := t.updates[n.ID]
		u.Installed = t.installed(u)
		if u.Installed && !u.Leaf {
			t.nonLeaf = append(t.nonLeaf, u.ID)
			more = true
		} else {
			t.cached = append(t.cached, u.ID)
		}
	}
	return more, nil
}

func (t *Terminal) installed(u *Update) bool {
	if members := t.members(u); len(members) > 0 {
		return !slices.ContainsFunc(members, func(m *Update) bool { return !t.installed(m) })
	}
	return t.Machine.holds(u.core, "IsInstalled")
}

func (t *Terminal) installable(u *Update) bool {
	if members := t.members(u); len(members) > 0 {
		return slices.ContainsFunc(members, t.installable)
	}
	return t.Machine.holds(u.core, "IsInstallable")
}

func (t *Terminal) members(u *Update) []*Update {
	var out []*Update
	for _, n := range u.core.all("Relationships", "BundledUpdates") {
		for _, id := range n.every("UpdateIdentity") {
			if m := t.byUpdate[strings.ToLower(id.attr("UpdateID"))]; m != nil {
				out = append(out, m)
			}
		}
	}
	return out
}

// Needed lists the updates that the machine is to install and lacks, with their members.
func (t *Terminal) Needed() []*Update {
	var out []*Update
	for _, u := range t.updates {
		if (u.Action == "Install" || u.Action == "OptionalInstall") && !t.installed(u) && t.installable(u) {
			out = append(out, u)
			out = append(out, t.members(u)...)
		}
	}
	slices.SortFunc(out, func(a, b *Update) int { return a.ID - b.ID })
	return out
}

// Known is how many revisions the agent has; NonLeaf how many installed ones it names.
func (t *Terminal) Known() int   { return len(t.updates) }
func (t *Terminal) NonLeaf() int { return len(t.nonLeaf) }

// File is one payload of an update.
type File struct {
	Name         string
	Size         int64
	SHA1, SHA256 string // base64
	URL          string
}

// Extended asks for files and title of updates.
func (t *Terminal) Extended(updates []*Update, locales ...string) (files []File, titles []string, err error) {
	var ids []int
	for _, u := range updates {
		ids = append(ids, u.ID)
	}
	body := t.Cookie() + ints("revisionIDs", ids) + "<infoTypes><XmlUpdateFragmentType>Extended</XmlUpdateFragmentType><XmlUpdateFragmentType>LocalizedProperties</XmlUpdateFragmentType></infoTypes><locales>"
	for _, l := range locales {
		body += "<string>" + l + "</string>"
	}
	var r struct {
		Updates []struct {
			ID  int
			XML string `xml:"Xml"`
		} `xml:"GetExtendedUpdateInfoResult>Updates>Update"`
		Locations []struct{ FileDigest, Url string } `xml:"GetExtendedUpdateInfoResult>FileLocations>FileLocation"`
	}
	if err := t.Call(clientPath, nsClient, "GetExtendedUpdateInfo", body+"</locales>", &r); err != nil {
		return nil, nil, err
	}
	for _, u := range r.Updates {
		n, err := parse(u.XML)
		if err != nil {
			return nil, nil, err
		}
		for _, f := range n.all("Files", "File") {
			size, _ := strconv.ParseInt(f.attr("Size"), 10, 64)
			one := File{Name: f.attr("FileName"), Size: size, SHA1: f.attr("Digest"), SHA256: f.find("AdditionalDigest").text}
			for _, l := range r.Locations {
				if l.FileDigest == one.SHA1 {
					one.URL = l.Url
				}
			}
			files = append(files, one)
		}
		if p := n.find("LocalizedProperties"); p != nil {
			titles = append(titles, p.find("Title").text)
		}
	}
	return files, titles, nil
}

// Download fetches a file as Delivery Optimization does: no HEAD, closed ranges of 1 MiB.
func (t *Terminal) Download(f File) ([]byte, error) {
	const piece = 1 << 20
	out := make([]byte, f.Size)
	tag := ""
	for at := (f.Size - 1) / piece * piece; at >= 0; at -= piece { // not in order
		last := min(at+piece, f.Size) - 1
		r, err := http.NewRequest(http.MethodGet, f.URL, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, last))
		res, err := t.Do(r)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		want := fmt.Sprintf("bytes %d-%d/%d", at, last, f.Size)
		if err != nil || res.StatusCode != http.StatusPartialContent || res.Header.Get("Content-Range") != want || int64(len(b)) != last-at+1 {
			return nil, fmt.Errorf("%s: %s %q, %d bytes: %w", f.URL, res.Status, res.Header.Get("Content-Range"), len(b), err)
		}
		if e := res.Header.Get("ETag"); e == "" || tag != "" && e != tag {
			return nil, fmt.Errorf("%s: ETag %q after %q", f.URL, e, tag)
		} else {
			tag = e
		}
		copy(out[at:], b)
	}
	return out, nil
}

func ints(tag string, list []int) string {
	if len(list) == 0 {
		return ""
	}
	var b bytes.Buffer
	b.WriteString("<" + tag + ">")
	for _, n := range list {
		fmt.Fprintf(&b, "<int>%d</int>", n)
	}
	b.WriteString("</" + tag + ">")
	return b.String()
}

const nsReport = "http://www.microsoft.com/SoftwareDistribution"

// Event is one thing to report (MS-WUSP 3.1.5.10).
type Event struct {
	ID       int
	Instance string // GUID
	Update   string // GUID; empty is none
	Result   int32  // HRESULT
	Misc     []string
	User     string // UserAccountName, which agents may send
}

// Report sends events.
func (t *Terminal) Report(events ...Event) error {
	now := time.Now().UTC().Format(time.RFC3339)
	b := t.Cookie() + "<clientTime>" + now + "</clientTime><eventBatch>"
	for n, e := range events {
		update := e.Update
		if update == "" {
			update = "00000000-0000-0000-0000-000000000000"
		}
		b += fmt.Sprintf("<ReportingEvent><BasicData><TargetID><Sid>%s</Sid></TargetID><SequenceNumber>%d</SequenceNumber><TimeAtTarget>%s</TimeAtTarget><EventInstanceID>%s</EventInstanceID>"+
			"<NamespaceID>1</NamespaceID><EventID>%d</EventID><SourceID>101</SourceID><UpdateID><UpdateID>%s</UpdateID><RevisionNumber>0</RevisionNumber></UpdateID><Win32HResult>%d</Win32HResult></BasicData>"+
			"<ExtendedData><ReplacementStrings/><MiscData>", t.ID, n, now, e.Instance, e.ID, update, e.Result)
		for _, m := range e.Misc {
			b += "<string>" + m + "</string>"
		}
		b += "</MiscData><ProcessorArchitecture>Amd64Compatible</ProcessorArchitecture><OSVersion><Major>6</Major><Minor>3</Minor><Build>9600</Build><Revision>0</Revision><ServicePackMajor>0</ServicePackMajor><ServicePackMinor>0</ServicePackMinor></OSVersion><OSLocaleID>1041</OSLocaleID></ExtendedData>" +
			"<PrivateData><ComputerDnsName>" + t.Name + "</ComputerDnsName><UserAccountName>" + e.User + "</UserAccountName></PrivateData></ReportingEvent>"
	}
	var r struct {
		OK bool `xml:"ReportEventBatchResult"`
	}
	if err := t.Call("/ReportingWebService/ReportingWebService.asmx", nsReport, "ReportEventBatch", b+"</eventBatch>", &r); err != nil {
		return err
	}
	if !r.OK {
		return fmt.Errorf("ReportEventBatch: false")
	}
	return nil
}
