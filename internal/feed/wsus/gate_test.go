package wsus

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestBusy: expensive calls are bounded. What comes when the queue is full is
// told to come again; what waits is answered; terminals have a gate of their own.
func TestBusy(t *testing.T) {
	s := smallSite(t)
	h := s.h.(*server)
	list := requestOf(nsServer, "GetRevisionIdList", "<cookie><EncryptedData>"+s.sealed(t, nil)+"</EncryptedData></cookie><filter><GetConfig>true</GetConfig></filter>")
	scan := requestOf(nsClient, "SyncUpdates", "<cookie><EncryptedData>"+s.sealed(t, func(k *cookie) { k.use = cookieSession })+"</EncryptedData></cookie><parameters><SkipSoftwareSync>false</SkipSoftwareSync></parameters>")
	var leave []func()
	for range serversAtOnce {
		f, err := h.servers.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, f)
	}
	answers := make(chan *httptest.ResponseRecorder, serversQueued)
	for range serversQueued {
		go func() { answers <- s.post(pathServerSync, list) }()
	}
	for len(h.servers.wait) < cap(h.servers.wait) {
		time.Sleep(time.Millisecond)
	}
	busy := s.post(pathServerSync, list)
	if busy.Code != http.StatusInternalServerError || busy.Header().Get("Retry-After") != retryAfter || !strings.Contains(busy.Body.String(), "<ErrorCode>ServerBusy</ErrorCode>") {
		t.Errorf("a full queue: %d %v %s", busy.Code, busy.Header(), busy.Body)
	}
	if w := s.post("/ClientWebService/client.asmx", scan); w.Code != http.StatusOK {
		t.Errorf("a terminal beside it: %d %s", w.Code, w.Body)
	}
	for _, f := range leave {
		f()
	}
	for range serversQueued {
		if w := <-answers; w.Code != http.StatusOK {
			t.Errorf("one that waited: %d %s", w.Code, w.Body)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	g := newGate(1, 1)
	if _, err := g.enter(gone); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := g.enter(gone); err == nil || len(g.wait) != 1 {
		t.Errorf("one that went away: %v, %d wait", err, len(g.wait))
	}
	bad := requestOf(nsServer, "GetRevisionIdList", "<cookie><EncryptedData>AAAA</EncryptedData></cookie>")
	s.post(pathServerSync, bad)
	if len(h.servers.wait)+len(h.servers.work) != 0 {
		t.Error("a place is lost")
	}
}
