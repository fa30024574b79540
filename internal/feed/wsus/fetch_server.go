package wsus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Fetching from an upstream server: the configuration pass brings categories,
// classifications and detectoids, the update pass the updates of the chosen
// products and classifications; then whatever these build on, and the files of
// those that are worth installing.

// microsoftServer is Microsoft's own upstream; its certificate leads to a root
// that machines do not know by default (microsoft.md 2.3).
const microsoftServer = "https://sws.update.microsoft.com"

// contentHosts are where Microsoft's update data sends for files.
var contentHosts = [...]string{
	"http://*.download.windowsupdate.com", "https://*.download.windowsupdate.com", "http://download.windowsupdate.com",
	"http://*.dl.delivery.mp.microsoft.com", "https://*.dl.delivery.mp.microsoft.com", "http://dl.delivery.mp.microsoft.com",
}

// defaultClassifications are what a town hall wants (microsoft.md 2.5).
func defaultClassifications() []string {
	return []string{"Critical Updates", "Security Updates", "Definition Updates", "Update Rollups", "Updates"}
}

// progress is what one fetch leaves for the next, in the snapshot's state.
type progress struct {
	Server   string   `json:"server"`             // fingerprint of upstream and choice
	Config   string   `json:"config"`             // anchors
	Updates  string   `json:"updates"`            //
	Products []string `json:"products,omitempty"` // resolved
	Classes  []string `json:"classes,omitempty"`
	Note     string   `json:"note,omitempty"` // for people
}

// maxState is how much of it a header carries.
const maxState = 4000

func progressOf(prev feed.Content) (p progress) {
	if prev != nil {
		_ = json.Unmarshal([]byte(prev.Header().State), &p) // a snapshot of drops has another state: from the beginning
	}
	return p
}

func (p progress) String() string {
	b, _ := json.Marshal(p)
	if len(b) > maxState {
		p.Products, p.Classes = nil, nil
		b, _ = json.Marshal(p)
	}
	return string(b)
}

// mirror is one fetch from a server.
type mirror struct {
	*fetch
	f    *updates
	srv  *peerServer
	was  progress
	now  progress
	held map[identity]string // revision → batch of the last snapshot
	docs map[identity]*document
	news []original // bodies packed
	size int64      // bytes of news
	pack *packer
	urls map[[20]byte]string
	made map[string]*scan // new batches, by path

	foreign map[identity]bool // drivers for other hardware
}

// fromServer adds what the upstream server has.
func (f *updates) fromServer(ctx context.Context, up feed.Upstream, r *fetch) (*progress, error) {
	m := &mirror{fetch: r, f: f, was: progressOf(r.prev), held: map[identity]string{}, docs: map[identity]*document{}, urls: map[[20]byte]string{}, made: map[string]*scan{}, pack: newPacker(), foreign: map[identity]bool{},
		srv: &peerServer{up: up, base: f.conf.Upstream}}
	if strings.EqualFold(f.conf.Upstream, microsoftServer) {
		m.srv.roots = verifier.MicrosoftRoot2011()
	}
	defer m.pack.close()
	m.now.Server = f.choice()
	if m.was.Server != m.now.Server {
		m.was = progress{}
	}
	err := m.run(ctx)
	if errors.Is(err, errServerChanged) && m.was.Config != "" { // its numbers and anchors are worth nothing now
		m.was = progress{}
		m.news, m.size, m.docs, m.held = nil, 0, map[identity]*document{}, map[identity]string{}
		err = m.run(ctx)
	}
	if errors.Is(err, errServerChanged) {
		err = fmt.Errorf("%w: %w", err, feed.ErrTransient)
	}
	return &m.now, err
}

func (m *mirror) run(ctx context.Context) error {
	if err := m.srv.authorise(ctx, m.f.conf.Account, "00000000-0000-0000-0000-000000000000"); err != nil {
		return err
	}
	config, anchor, err := m.srv.list(ctx, filter{anchor: m.was.Config, delta: true})
	if err != nil {
		return err
	}
	m.now.Config = anchor
	if m.was.Updates != "" && len(config) == 0 && len(m.was.Products) > 0 {
		// Nothing new among the categories: what was resolved holds.
		quiet, err := m.quiet(ctx)
		if err != nil || quiet {
			return err
		}
	}
	if err := m.remember(ctx); err != nil {
		return err
	}
	if err := m.bring(ctx, config); err != nil {
		return err
	}
	products, classes, err := m.resolve()
	if err != nil {
		return err
	}
	m.now.Products, m.now.Classes = spelled(products), spelled(classes)
	f := filter{anchor: m.was.Updates, products: products, classifications: classes, delta: slices.Equal(m.now.Products, m.was.Products) && slices.Equal(m.now.Classes, m.was.Classes)}
	list, anchor, err := m.srv.list(ctx, f)
	if err != nil {
		return err
	}
	m.now.Updates = anchor
	if err := m.bring(ctx, list); err != nil {
		return err
	}
	if err := m.complete(ctx); err != nil {
		return err
	}
	return m.store(ctx)
}

// quiet asks for updates with what the last fetch resolved; with none new, the
// last snapshot's files stand.
func (m *mirror) quiet(ctx context.Context) (bool, error) {
	products, err := guids(m.was.Products)
	if err != nil {
		return false, nil
	}
	classes, err := guids(m.was.Classes)
	if err != nil {
		return false, nil
	}
	list, anchor, err := m.srv.list(ctx, filter{anchor: m.was.Updates, products: products, classifications: classes, delta: true})
	if err != nil || len(list) > 0 {
		return false, err
	}
	m.now.Updates, m.now.Products, m.now.Classes = anchor, m.was.Products, m.was.Classes
	for a, err := range m.prev.Artifacts() {
		if err != nil {
			return false, err
		}
		if isBatch(a) || a.Class != feed.Metadata && a.Group == a.Path {
			m.found[a.Path] = a
		}
	}
	return true, nil
}

func guids(list []string) ([]guid, error) {
	var out []guid
	for _, s := range list {
		g, err := parseGUID(s)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

func spelled(list []guid) (out []string) {
	for _, g := range list {
		out = append(out, g.String())
	}
	return out
}

// remember reads the documents of the last snapshot.
func (m *mirror) remember(ctx context.Context) error {
	if m.prev == nil {
		return nil
	}
	for a, err := range m.prev.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if !isBatch(a) {
			continue
		}
		f, err := m.prev.Open(a.Path)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
		}
		err = eachOriginal(f, func(o original) error {
			d, err := parseDocument(o.body)
			if err == nil {
				m.note(d)
				m.held[o.identity] = a.Path
			}
			return err
		})
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", a.Path, err)
		}
	}
	return nil
}

// note keeps what later steps ask of a document, not its rules.
func (m *mirror) note(d *document) {
	if m.f != nil && m.f.foreign(d) {
		m.foreign[d.identity] = true
	}
	for i := range d.Pieces {
		if p := &d.Pieces[i]; p.part != localized || d.Type != "Category" {
			p.body = nil
		}
	}
	m.docs[d.identity] = d
}

// maxBrought bounds the new documents of one fetch, which wait packed in memory
// until all that they build on is here.
const maxBrought = 256 << 20

// bring asks for the documents of revisions that are not held yet.
func (m *mirror) bring(ctx context.Context, ids []identity) error {
	var lack []identity
	listed := map[identity]bool{}
	for _, id := range ids {
		if m.docs[id] == nil && !listed[id] {
			listed[id] = true
			lack = append(lack, id)
		}
	}
	for len(lack) > 0 {
		part := lack[:min(len(lack), m.srv.most)]
		list, urls, err := m.srv.data(ctx, part)
		if err != nil {
			return err
		}
		lack = without(lack[len(part):], part, list)
		for _, o := range list {
			if m.docs[o.identity] != nil {
				continue
			}
			m.note(o.doc)
			m.news = append(m.news, original{o.identity, m.pack.pack(o.body)})
			if m.size += int64(len(m.news[len(m.news)-1].body)); m.size > maxBrought || len(m.docs) > maxUpdates {
				return upstream("over %d revisions, or %d bytes of new ones: choose fewer products", maxUpdates, int64(maxBrought))
			}
		}
		for sum, at := range urls {
			m.urls[sum] = at
		}
	}
	return nil
}

// without puts what was asked for and did not come before what is still to ask.
func without(rest, asked []identity, list []received) []identity {
	came := map[identity]bool{}
	for _, o := range list {
		came[o.identity] = true
	}
	left := slices.DeleteFunc(slices.Clone(asked), func(id identity) bool { return came[id] })
	return append(left, rest...)
}

// resolve finds the ids of the products and classifications that are named by
// their titles (in Japanese or English) or by id.
func (m *mirror) resolve() (products, classes []guid, err error) {
	titles := map[bool]map[string][]guid{true: {}, false: {}} // of classifications, of products
	for id, d := range m.docs {
		if d.Type != "Category" {
			continue
		}
		class := d.CategoryType == "UpdateClassification"
		for _, l := range []string{"ja", "en"} {
			t := strings.ToLower(d.title(l))
			if t != "" && !slices.Contains(titles[class][t], id.Update) {
				titles[class][t] = append(titles[class][t], id.Update)
			}
		}
	}
	find := func(names []string, class bool) (out []guid) {
		for _, n := range names {
			if g, gerr := parseGUID(strings.ToLower(n)); gerr == nil {
				out = append(out, g)
				continue
			}
			found := titles[class][strings.ToLower(strings.TrimSpace(n))]
			if len(found) == 0 {
				err = errors.Join(err, fmt.Errorf("the upstream server has no product or classification %q: %w", n, feed.ErrConfig))
			}
			out = append(out, found...)
		}
		slices.SortFunc(out, func(a, b guid) int { return bytes.Compare(a[:], b[:]) })
		return slices.Compact(out)
	}
	products, classes = find(m.f.conf.Products, false), find(m.f.conf.Classifications, true)
	return products, classes, err
}

// choice identifies the server and what is wanted of it.
func (f *updates) choice() string {
	h := feed.DigestOf([]byte(strings.Join([]string{f.conf.Upstream, strings.Join(f.conf.Products, "\x00"), strings.Join(f.conf.Classifications, "\x00"), fmt.Sprint(f.conf.Superseded), fmt.Sprintf("%q", f.conf.Hardware), f.declines()}, "\x01")))
	return h.Hex()[:16]
}

// declines spells the rules, which decide what files are worth fetching.
func (f *updates) declines() string {
	var b strings.Builder
	for _, r := range f.conf.Rules {
		fmt.Fprintf(&b, "%q %q %q %q\n", r.Classification, r.Product, r.Group, r.Action)
	}
	return b.String()
}

// Reaches implements feed.Reacher.
func (f *updates) Reaches() []string {
	var out []string
	if f.conf.Offline != "" {
		out = append(append(out, f.conf.Offline), contentHosts[:]...)
	}
	if f.conf.Upstream == "" {
		return out
	}
	out = append(out, f.conf.Upstream)
	u, err := url.Parse(f.conf.Upstream)
	if err == nil && u.Port() != "8530" && u.Port() != "" {
		// A WSUS on 8531 hands out files on 8530 (MS-WSUSSS 3.2.4.4).
		out = append(out, "http://"+u.Hostname()+":8530")
	}
	if f.conf.Offline == "" {
		out = append(out, contentHosts[:]...)
	}
	return out
}
