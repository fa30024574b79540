package wsus

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// The captures are of a Windows 11 25H2 terminal that speaks to a real WSUS.

func captured(t testing.TB, name string) string {
	return string(sample(t, "microsoft", "native-wua-captures", name))
}

// replay sends a captured request and returns the answer.
func (s *site) replay(path, action, body string) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/xml; charset=utf-8")
	req.Header.Set("SOAPAction", `"`+action+`"`)
	req.Header.Set("User-Agent", "Windows-Update-Agent/1507.2601.30012.0 Client-Protocol/2.90")
	res, err := s.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s, %v\n%s", action, res.Status, err, b)
	}
	return string(b)
}

// only is the text of the one element of that name.
func only(t testing.TB, text, tag string) string {
	t.Helper()
	all := between(text, tag)
	if len(all) != 1 {
		t.Fatalf("%d elements %s in\n%s", len(all), tag, text)
	}
	return all[0]
}

var (
	cookieData    = regexp.MustCompile(`<CookieData>[^<]*</CookieData>`)
	encryptedData = regexp.MustCompile(`<EncryptedData>[^<]*</EncryptedData>`)
)

func withCookie(request, sealed string) string {
	return encryptedData.ReplaceAllLiteralString(request, "<EncryptedData>"+sealed+"</EncryptedData>")
}

// shape lists an answer's elements with their namespaces, in order, and after
// "=" the kind of value of those without children.
func shape(t testing.TB, text string) (out []string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	var path []string
	leaf, value := false, ""
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			path = append(path, tok.Name.Local)
			out = append(out, tok.Name.Space+" "+strings.Join(path, "/"))
			leaf, value = true, ""
		case xml.CharData:
			value += string(tok)
		case xml.EndElement:
			if leaf {
				out[len(out)-1] += " = " + valueKind(value)
			}
			path, leaf = path[:len(path)-1], false
		}
	}
}

func valueKind(v string) string {
	for _, k := range []struct{ name, form string }{
		{"number", `^-?[0-9]+$`}, {"boolean", `^(true|false)$`}, {"date", `^\d{4}-\d\d-\d\d$`},
		{"time", `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`}, {"fragment", `^<`}, {"base64", `^[A-Za-z0-9+/]{16,}=*$`},
	} {
		if regexp.MustCompile(k.form).MatchString(v) {
			return k.name
		}
	}
	return fmt.Sprintf("%q", v)
}

// TestNativeCaptures replays the requests of a real terminal in their order.
// Only cookies and the server's own revision numbers are put in their place.
func TestNativeCaptures(t *testing.T) {
	v := realVendor(t)
	v.add(t, []byte(captured(t, "category-dd78b8a1-r202.update.xml")))
	f := follower(t, v.URL, nil)
	snap, err := follow(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, f)
	s.publish(snap, feed.View{}, "all")
	const client = "/ClientWebService/client.asmx"

	a := s.terminal("")
	auth := s.replay("/SimpleAuthWebService/SimpleAuth.asmx", nsAuth+"/GetAuthorizationCookie",
		xmlHead+`<GetAuthorizationCookie xmlns="`+nsAuth+`"><clientId>e1da06a3-5601-43c9-bac3-52d5db701494</clientId><targetGroupName></targetGroupName><dnsName>`+a.Name+`</dnsName></GetAuthorizationCookie></s:Body></s:Envelope>`)
	got := s.replay(client, nsClient+"/GetCookie",
		cookieData.ReplaceAllLiteralString(captured(t, "01-GetCookie.request.xml"), "<CookieData>"+only(t, auth, "CookieData")+"</CookieData>"))
	sealed := only(t, got, "EncryptedData")
	only(t, got, "Expiration")

	got = s.replay(client, nsClient+"/RegisterComputer", withCookie(captured(t, "02-RegisterComputer.request.xml"), sealed))
	if !strings.Contains(got, "<RegisterComputerResponse ") {
		t.Errorf("RegisterComputer: %s", got)
	}
	if !slices.ContainsFunc(s.ledger.seen, func(x feed.Sighting) bool {
		return x.Event == "registered" && strings.HasPrefix(x.Terminal, "e1da06a3")
	}) {
		t.Errorf("RegisterComputer: sightings %+v", s.ledger.seen)
	}

	sync := withCookie(captured(t, "03-SyncUpdates-first.request.xml"), sealed)
	want := captured(t, "03-SyncUpdates-first.response.xml")
	got = s.replay(client, nsClient+"/SyncUpdates", sync)
	if a, b := shape(t, got), shape(t, want); !slices.Equal(a, b) {
		t.Errorf("SyncUpdates has the shape\n%s\na real server's has\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	for _, tag := range []string{"Action", "IsAssigned", "AutoSelect", "AutoDownload", "SupersedenceBehavior", "IsLeaf", "Truncated", "DriverSyncNotNeeded"} {
		if a, b := between(got, tag), between(want, tag); !slices.Equal(a, b) {
			t.Errorf("SyncUpdates: %s is %q, a real server says %q", tag, a, b)
		}
	}
	// The revision is another of the same category: our samples have their own.
	revision := regexp.MustCompile(`RevisionNumber=&#?\w+;\d+&#?\w+;|RevisionNumber="\d+"`)
	plain := func(x string) string {
		var text struct {
			Fragment string `xml:",chardata"`
		}
		if err := xml.Unmarshal([]byte("<x>"+x+"</x>"), &text); err != nil {
			t.Fatal(err)
		}
		return strings.ToLower(revision.ReplaceAllString(text.Fragment, "RevisionNumber"))
	}
	if a, b := plain(only(t, got, "Xml")), plain(only(t, want, "Xml")); a != b {
		t.Errorf("SyncUpdates gives\n%s\na real server\n%s", a, b)
	}
	nativeScan(t, s, sync)
	nativeExtended(t, s, only(t, got, "EncryptedData"))

	got = s.replay("/ReportingWebService/ReportingWebService.asmx", nsReporting+"/ReportEventBatch", withCookie(captured(t, "05-ReportEventBatch-install-failed.request.xml"), sealed))
	if only(t, got, "ReportEventBatchResult") != "true" {
		t.Errorf("ReportEventBatch: %s", got)
	}
	if !slices.ContainsFunc(s.ledger.seen, func(x feed.Sighting) bool {
		return strings.HasPrefix(x.Event, "install failed") && strings.HasPrefix(x.Terminal, "e1da06a3") && strings.Contains(x.Path, "a2fef9b0-7951-4c2c-a42b-9e351dd1c1fe")
	}) {
		t.Errorf("ReportEventBatch: sightings %+v", s.ledger.seen)
	}
}

// nativeScan goes on as the terminal did: each stage reports what it got as
// installed, and reaches the category that it asked for.
func nativeScan(t *testing.T, s *site, request string) {
	t.Helper()
	var installed []string
	for range 5 {
		list := ""
		for _, id := range installed {
			list += "<int>" + id + "</int>"
		}
		r := strings.Replace(request, "<SkipSoftwareSync>", "<InstalledNonLeafUpdateIDs>"+list+"</InstalledNonLeafUpdateIDs><SkipSoftwareSync>", 1)
		got := s.replay("/ClientWebService/client.asmx", nsClient+"/SyncUpdates", r)
		if strings.Contains(strings.ToLower(got), "dd78b8a1-0b20-45c1-add6-4da72e9364cf") {
			return
		}
		for _, info := range between(got, "UpdateInfo") {
			installed = append(installed, between(info, "ID")[0])
		}
	}
	t.Error("the category is never offered")
}

// nativeExtended asks for texts of three revisions: two that there are and one
// that there is not, by this server's numbers.
func nativeExtended(t *testing.T, s *site, sealed string) {
	t.Helper()
	v := s.h.(*server).rings["all"]
	id := func(g string) string {
		return fmt.Sprint(v.Revisions[v.latest[v.numbers[mustGUID(g)]]].ID)
	}
	microsoft, update := id("56309036-4c77-4dd9-951a-99ee9c246a94"), id("433942af-c579-4917-921b-c580f5ac230b")
	r := strings.NewReplacer("<int>72571</int>", "<int>"+update+"</int>", "<int>108226</int>", "<int>"+microsoft+"</int>").
		Replace(withCookie(captured(t, "04-GetExtendedUpdateInfo.request.xml"), sealed))
	got := s.replay("/ClientWebService/client.asmx", nsClient+"/GetExtendedUpdateInfo", r)
	var ids []string
	for _, u := range between(only(t, got, "Updates"), "Update") {
		ids = append(ids, only(t, u, "ID"))
		if only(t, u, "Xml") == "" {
			t.Errorf("GetExtendedUpdateInfo: nothing in %s", u)
		}
	}
	slices.Sort(ids)
	if want := []string{update, update, microsoft, microsoft}; !slices.Equal(slices.Compact(ids), slices.Compact(slices.Sorted(slices.Values(want)))) {
		t.Errorf("GetExtendedUpdateInfo: %q, want %q", ids, want)
	}
	if !strings.Contains(got, "Update for Windows") {
		t.Error("GetExtendedUpdateInfo: no English title")
	}
	if out := only(t, got, "OutOfScopeRevisionIDs"); out != "<int>108231</int>" {
		t.Errorf("GetExtendedUpdateInfo: out of scope %s", out)
	}
}
