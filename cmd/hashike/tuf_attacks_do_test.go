package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
)

// stranger is another outside with the same feeds and keys of its own.
func (s *siege) stranger() []string {
	w := newWorld(s.t, houseBlock("tools", s.w.path("tools"))+houseBlock("other", s.w.path("other")))
	forgeFetch(s.t, w.path(outside))
	w.outside("pack", "--to", w.path("m"), "--full", "--parity", "0")
	return []string{w.path("m")}
}

func (s *siege) strangerBehindOurRoot() []string {
	m := s.stranger()[0]
	s.put(filepath.Join(m, "tuf/1.root.json"), s.read(filepath.Join(s.next, "tuf/1.root.json")))
	return []string{m}
}

// conquered packs what a fetcher believes who believes everything.
func (s *siege) conquered() []string {
	s.w.inside("import", s.next) // so that nothing else is new
	s.next = ""
	forgeFetch(s.t, s.w.path(outside))
	s.w.outside("pack", "--to", s.w.path("forged"), "--full", "--parity", "0", "--clock-checked", "attack")
	return []string{s.w.path("forged")}
}

// unsigned: a release that somebody else than the vendor signed.
func (s *siege) unsigned() []string {
	evil := newHouse(s.t, s.tools.dir)
	evil.release("9")
	return s.conquered()
}

// redirect lets the outside fetch feed from a directory of this siege.
func (s *siege) redirect(name, dir string) {
	p := s.w.path(outside, "hashike.toml")
	var out []string
	in := false
	for line := range strings.Lines(string(s.read(p))) {
		if strings.HasPrefix(line, "[") {
			in = strings.TrimSpace(line) == "[feed."+name+"]"
		}
		if in && strings.HasPrefix(line, "dirs") {
			line = "dirs = { drop = \"" + filepath.ToSlash(s.w.path(dir)) + "\" }\n"
		}
		out = append(out, line)
	}
	s.put(p, []byte(strings.Join(out, "")))
}

const endlessBytes = 1 << 40 // sparse; reading it would take the better part of an hour

func (s *siege) endless(name string) []string {
	m := s.copyOf(s.next)
	if err := os.Truncate(filepath.Join(m, name), endlessBytes); err != nil {
		missing(s.t, "no sparse files of 1 TiB here: "+err.Error())
	}
	return []string{m}
}

func (s *siege) endlessPayload() []string {
	rel, err := filepath.Rel(s.next, s.payload(s.next))
	s.check(err)
	return s.endless(rel)
}

// bomb: the bundle key signs a table of a few kilobytes that unpacks to 64 GiB.
func (s *siege) bomb() []string {
	m := s.copyOf(s.next)
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(8<<20))
	s.check(err)
	zeros := make([]byte, 8<<20)
	for range 64 {
		_, err := z.Write(zeros)
		s.check(err)
	}
	s.check(z.Close())
	frame := b.Bytes()
	all := bytes.Repeat(frame, 128)
	s.put(filepath.Join(m, "tables/feeds.jsonl.zst"), all)
	return []string{s.forge(m, func(set *packager.Set) {
		set.Feeds = packager.Ref{Digest: feed.DigestOf(all), Size: int64(len(all)), Lines: 10_000}
	})}
}

func (s *siege) fastForward() []string {
	return []string{s.forge(s.next, func(set *packager.Set) { set.Version += 2 * 24 * 3600 })}
}

func (s *siege) freeze() []string {
	now := s.w.now
	s.w.now = func() time.Time { return now().AddDate(0, 0, 46) }
	s.next = "" // expired too
	return []string{s.first}
}

func (s *siege) missingFiles() []string {
	m := s.copyOf(s.next)
	s.check(os.Remove(s.payload(m)))
	return []string{m}
}

func (s *siege) changedFiles() []string {
	m := s.copyOf(s.next)
	for _, p := range s.payloads(m) {
		b := s.read(p)
		b[len(b)/2] ^= 0x10
		s.put(p, b)
	}
	return []string{m}
}

// payloads are all containers: everything that is no manifest or config.
func (s *siege) payloads(medium string) []string {
	names, err := filepath.Glob(filepath.Join(medium, "blobs/sha256/*"))
	s.check(err)
	return slices.DeleteFunc(names, func(n string) bool { return bytes.HasPrefix(s.read(n), []byte("{")) })
}

// oldFiles: what the older bundle says, where it was newer.
func (s *siege) oldFiles() []string {
	m := s.copyOf(s.next)
	old, now := setOf(s, s.first).Version, setOf(s, s.next).Version
	for _, role := range []string{"snapshot", "targets"} {
		s.put(filepath.Join(m, "tuf", decimal(now)+"."+role+".json"), s.read(filepath.Join(s.first, "tuf", decimal(old)+"."+role+".json")))
	}
	return []string{m}
}

func (s *siege) changedMetadata() []string {
	m := s.copyOf(s.next)
	p := filepath.Join(m, "tuf/timestamp.json")
	s.put(p, bytes.Replace(s.read(p), []byte(`"version":`+decimal(setOf(s, m).Version)), []byte(`"version":`+decimal(setOf(s, m).Version+1)), 1))
	return []string{m}
}

func (s *siege) mix(name string) []string {
	m := s.copyOf(s.next)
	s.put(filepath.Join(m, name), s.read(filepath.Join(s.first, name)))
	return []string{m}
}

// mixMetadata: a timestamp that the bundle key signed for another snapshot.
func (s *siege) mixMetadata() []string {
	s.w.outside("pack", "--to", s.w.path("third"), "--full", "--parity", "0")
	m := s.copyOf(s.next)
	third, now := setOf(s, s.w.path("third")).Version, setOf(s, m).Version
	s.put(filepath.Join(m, "tuf/timestamp.json"), s.read(filepath.Join(s.w.path("third"), "tuf/timestamp.json")))
	s.check(os.Rename(filepath.Join(m, "tuf", decimal(now)+".snapshot.json"), filepath.Join(m, "tuf", decimal(third)+".snapshot.json")))
	return []string{m}
}

// rollback: bundle 1 again, after another was accepted that says the same.
func (s *siege) rollback() []string {
	newer := s.forge(s.first, func(set *packager.Set) { set.Number++; set.Version++ })
	s.w.inside("import", newer)
	s.next = ""
	return []string{s.first}
}

// rollbackOfFeed: a new bundle whose state of a feed is the one before.
func (s *siege) rollbackOfFeed() []string {
	s.w.inside("import", s.next)
	last := setOf(s, s.next)
	old := s.forge(s.first, func(set *packager.Set) {
		set.Number, set.Version, set.Created = last.Number+1, last.Version+1, last.Created
	})
	s.next = ""
	return []string{old}
}

// newRoot is version 2 of our root with a stranger's bundle key, signed by these.
func (s *siege) newRoot(signers ...string) []byte {
	root, err := metadata.Root().FromBytes(s.read(filepath.Join(s.next, "tuf/1.root.json")))
	s.check(err)
	theirs := newWorld(s.t, "")
	pub, err := signerOf(s.t, s.read(theirs.path(outside, "keys/bundle.pem"))).PublicKey()
	s.check(err)
	key, err := metadata.KeyFromPublicKey(pub)
	s.check(err)
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		s.check(root.Signed.RevokeKey(root.Signed.Roles[role].KeyIDs[0], role))
		s.check(root.Signed.AddKey(key, role))
	}
	root.Signed.Version = 2
	root.ClearSignatures()
	for _, p := range signers {
		_, err := root.Sign(rootSigner(s.t, p))
		s.check(err)
	}
	b, err := root.ToBytes(false)
	s.check(err)
	return b
}

func (s *siege) oneRootKey() []string {
	m := s.copyOf(s.next)
	s.put(filepath.Join(m, "tuf/2.root.json"), s.newRoot(s.rootKeys()[0]))
	return []string{m}
}

func (s *siege) oneRootKeyTwice() []string {
	m := s.copyOf(s.next)
	root, err := metadata.Root().FromBytes(s.newRoot(s.rootKeys()[0]))
	s.check(err)
	root.Signatures = append(root.Signatures, root.Signatures[0])
	b, err := root.ToBytes(false)
	s.check(err)
	s.put(filepath.Join(m, "tuf/2.root.json"), b)
	return []string{m}
}

// trustOrder: a vendor key that the bundle key alone would have us believe.
func (s *siege) trustOrder() []string {
	m := s.copyOf(s.next)
	order, err := json.Marshal(feed.Order{Schema: 1, Number: 900, Kind: feed.OrderTrust, Reason: "r", Operator: "o", Issued: s.w.now().UTC().Truncate(time.Second),
		Anchor: &feed.NewAnchor{Name: "evil.asc", Use: "openpgp", Data: []byte("key")}})
	s.check(err)
	key := signerOf(s.t, s.read(s.w.path(outside, "keys/bundle.pem")))
	pub, err := key.PublicKey()
	s.check(err)
	id, err := dsse.SHA256KeyID(pub)
	s.check(err)
	sig, err := key.SignMessage(bytes.NewReader(dsse.PAE(packager.OrderType, order)))
	s.check(err)
	sealed, err := json.Marshal(dsse.Envelope{PayloadType: packager.OrderType, Payload: base64.StdEncoding.EncodeToString(order),
		Signatures: []dsse.Signature{{KeyID: id, Sig: base64.StdEncoding.EncodeToString(sig)}}})
	s.check(err)
	all := append(s.read(filepath.Join(m, "orders.jsonl")), append(sealed, '\n')...)
	s.put(filepath.Join(m, "orders.jsonl"), all)
	return []string{s.forge(m, func(set *packager.Set) {
		set.Orders = packager.Ref{Digest: feed.DigestOf(all), Size: int64(len(all)), Lines: set.Orders.Lines + 1}
	})}
}

// wrongSoftware: the bundle key gives one feed the other's snapshot.
func (s *siege) wrongSoftware(exchange bool) []string {
	return []string{s.forgeFeeds(s.next, func(l []packager.FeedLine) []packager.FeedLine {
		a, b := l[0], l[1]
		l[0].Serial, l[0].Snapshot, l[0].Document, l[0].Evidence = b.Serial, b.Snapshot, b.Document, b.Evidence
		if exchange {
			l[1].Serial, l[1].Snapshot, l[1].Document, l[1].Evidence = a.Serial, a.Snapshot, a.Document, a.Evidence
		}
		return l
	})}
}

// wrongVendor: a conquered outside fetches one vendor's files as the other's.
func (s *siege) wrongVendor() []string {
	s.redirect("other", "tools")
	return s.conquered()
}

// extraneous: the outside carries a feed that this inside has no block for.
func (s *siege) extraneous() []string {
	s.w.inside("import", s.next) // so that nothing else is new
	s.next = ""
	p := s.w.path(outside, "hashike.toml")
	s.put(p, append(s.read(p), houseBlock("extra", s.w.path("other"))...))
	forgeFetch(s.t, s.w.path(outside))
	s.w.outside("pack", "--to", s.w.path("extra"), "--full", "--parity", "0")
	return []string{s.w.path("extra")}
}

func decimal(v int64) string { return strconv.FormatInt(v, 10) }
