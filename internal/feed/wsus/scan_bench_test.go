package wsus

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// BenchmarkDailyScan is the SyncUpdates of a terminal that knows all it sees:
// 20,000 revisions in scope, a thousand of them cached, nothing new.
func BenchmarkDailyScan(b *testing.B) {
	var docs [][]byte
	const products, updates, seen = 64, 20_000, 1000
	for i := range products {
		docs = append(docs, detectoid(numbered(i+1)))
	}
	for i := range updates - products {
		product := 1
		if i >= seen {
			product = 2 + i%(products-1)
		}
		docs = append(docs, plain(numbered(1000+i), 1, "Software", `<upd:Prerequisites><upd:UpdateIdentity UpdateID="`+numbered(product).String()+
			`"/><upd:AtLeastOne><upd:UpdateIdentity UpdateID="`+numbered(1).String()+`"/><upd:UpdateIdentity UpdateID="`+numbered(3).String()+`"/></upd:AtLeastOne></upd:Prerequisites>`))
	}
	s := newSite(b, newKind(b, nil))
	s.publish(snapshotOf(b, docs...), feed.View{}, "all")
	mark := s.h.(*server).scope(s.h.(*server).rings["all"], "all", "").mark
	var list strings.Builder
	for i := range seen {
		fmt.Fprintf(&list, "<int>%d</int>", products+i+1)
	}
	for i := range products - 1 {
		fmt.Fprintf(&list, "<int>%d</int>", i+2)
	}
	body := requestOf(nsClient, "SyncUpdates", "<cookie><EncryptedData>"+s.sealed(b, func(k *cookie) { k.use, k.serial, k.mark = cookieSession, 1, mark })+
		"</EncryptedData></cookie><parameters><InstalledNonLeafUpdateIDs><int>1</int></InstalledNonLeafUpdateIDs><OtherCachedUpdateIDs>"+list.String()+"</OtherCachedUpdateIDs><SkipSoftwareSync>false</SkipSoftwareSync></parameters>")
	once := func() *httptest.ResponseRecorder { return s.post("/ClientWebService/client.asmx", body) }
	if w := once(); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "<NewUpdates></NewUpdates>") || strings.Contains(w.Body.String(), "OutOfScope") {
		b.Fatalf("%d %.600s", w.Code, w.Body)
	}
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}
