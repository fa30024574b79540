package wsus

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/authenticode"
	"github.com/hashike/hashike/internal/format/cab"
)

// A published batch is a batch of our own making (see batch.go), with its own
// name: nothing of an upstream server's can be taken for it.
const (
	publishedPrefix = "metadata/published-"
	publishedGroup  = "published " // before the path, in the group of a payload
	maxKeyFile      = 64 << 10
)

func isPublished(a feed.Artifact) bool {
	return a.Class == feed.Metadata && strings.HasPrefix(a.Path, publishedPrefix)
}

func publishedArtifact(d feed.Digest, created time.Time) feed.Artifact {
	a := batchArtifact(d, created)
	a.Path = publishedPrefix + d.Hex()[:32] + ".zst"
	a.Group = a.Path
	return a
}

// publishes reports that the config names a directory of packages.
func (f *updates) publishes(up feed.Upstream) bool {
	_, err := up.Dir(publishDir)
	return err == nil || !notNamed(err)
}

// fromPublish adds the packages of dirs.publish. Without that directory in the
// config nothing is published.
func (f *updates) fromPublish(ctx context.Context, up feed.Upstream, r *fetch) error {
	fsys, err := up.Dir(publishDir)
	if err != nil {
		if notNamed(err) {
			err = nil
		}
		return err
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return fmt.Errorf("publish directory: %w", err)
	}
	p := &publishing{fetch: r, fsys: fsys, at: f.now()}
	for _, e := range entries {
		if _, err := fs.Stat(fsys, path.Join(e.Name(), packageFile)); e.IsDir() && err == nil {
			p.names = append(p.names, e.Name())
		}
	}
	if len(p.names) == 0 {
		return nil
	}
	if len(p.names) > maxPackages {
		return published(fmt.Errorf("%d packages, at most %d: %w", len(p.names), maxPackages, feed.ErrConfig))
	}
	keys, err := up.Dir(publisherDir)
	if err == nil {
		p.signer, err = readSigner(keys)
	}
	if err != nil {
		return published(fmt.Errorf("dirs.publisher: %w", err))
	}
	return p.run(ctx)
}

// published says that something in the folders must be put right.
func published(err error) error {
	if !errors.Is(err, feed.ErrConfig) {
		return err
	}
	return feed.NewFault(err, "H-202", "file", "dirs.publish", "detail", err.Error())
}

// readSigner reads publisher.key (PKCS#8, PEM) and publisher.pem (the key's own
// certificate first).
func readSigner(fsys fs.FS) (s authenticode.Signer, err error) {
	bad := func(why any) (authenticode.Signer, error) {
		return s, fmt.Errorf("publisher.key and publisher.pem: %v: %w", why, feed.ErrConfig)
	}
	key, err := readSmall(fsys, "publisher.key", maxKeyFile)
	if err != nil {
		return bad(err)
	}
	block, _ := pem.Decode(key)
	if block == nil || block.Type != "PRIVATE KEY" {
		return bad("no PRIVATE KEY (PKCS#8, not encrypted)")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return bad("not a key of PKCS#8") // the cause may quote the key
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return bad("a key that cannot sign")
	}
	s.Key = signer
	rest, err := readSmall(fsys, "publisher.pem", maxKeyFile)
	if err != nil {
		return bad(err)
	}
	for block, rest = pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return bad(err)
		}
		s.Chain = append(s.Chain, c)
	}
	if err := s.Check(); err != nil {
		return bad(err)
	}
	if o := s.Chain[0].Subject.Organization; len(o) != 1 || o[0] == "" || len(o[0]) > 200 {
		return bad("the certificate names no organisation (O)")
	}
	return s, nil
}

func readSmall(fsys fs.FS, name string, most int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s: over %d bytes", name, most)
	}
	return b, err
}

// publishing is one run over the folders.
type publishing struct {
	*fetch
	fsys   fs.FS
	at     time.Time
	signer authenticode.Signer
	names  []string
	had    map[string][]original // by mark: documents of the last snapshot
	known  map[identity]string   // → mark
}

func (p *publishing) run(ctx context.Context) error {
	if err := p.recall(); err != nil {
		return err
	}
	if p.signer.Chain[0].NotAfter.Before(p.at) {
		return published(fmt.Errorf("the publisher's certificate ended on %s: %w", p.signer.Chain[0].NotAfter.Format(time.DateOnly), feed.ErrConfig))
	}
	own := newOwner(p.signer.Chain[0].Subject.Organization[0])
	docs := own.categories()
	seen := map[guid]string{}
	for _, name := range p.names {
		list, err := p.pack(ctx, name, own)
		if errors.Is(err, errIncomplete) {
			p.waiting = append(p.waiting, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		if err != nil {
			return published(fmt.Errorf("%s: %w", name, err))
		}
		id := list[len(list)-1].identity.Update
		if other, twice := seen[id]; twice {
			return published(fmt.Errorf("%s and %s have the same id: %w", other, name, feed.ErrConfig))
		}
		seen[id] = name
		docs = append(docs, list...)
		p.taken++
	}
	if len(seen) == 0 {
		return nil
	}
	b, err := encodeBatch(docs)
	if err != nil {
		return err
	}
	blob, err := p.dst.Put(ctx, "made:"+publishedPrefix+"*.zst", bytes.NewReader(b))
	if err != nil {
		return err
	}
	s, err := readBatch(blob, blob.Size(), nil)
	if err != nil {
		return err
	}
	s.alone = publishedGroup
	list, err := s.payloads("")
	if err != nil {
		return err
	}
	for _, x := range list {
		p.found[x.Path] = x.Artifact
	}
	a := publishedArtifact(blob.Digest(), s.created)
	p.found[a.Path] = a
	for _, d := range docs {
		p.ids.add(d.identity)
	}
	return nil
}

var markText = regexp.MustCompile(` LegacyName="(hashike-[0-9a-f]{64})"`)

// recall reads what was published last: the same inputs are not signed again,
// for the signature would be another.
func (p *publishing) recall() error {
	p.had, p.known = map[string][]original{}, map[identity]string{}
	if p.prev == nil {
		return nil
	}
	for a, err := range p.prev.Artifacts() {
		if err != nil {
			return err
		}
		if !isPublished(a) {
			continue
		}
		f, err := p.prev.Open(a.Path)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
		}
		err = eachOriginal(f, func(o original) error {
			if m := markText.FindSubmatch(o.body); m != nil {
				p.had[string(m[1])] = append(p.had[string(m[1])], original{o.identity, bytes.Clone(o.body)})
				p.known[o.identity] = string(m[1])
			}
			return nil
		})
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", a.Path, err)
		}
	}
	return nil
}

// pack makes a package's documents, or takes those of the last snapshot.
func (p *publishing) pack(ctx context.Context, name string, own owner) ([]original, error) {
	text, err := readSmall(p.fsys, path.Join(name, packageFile), maxPackageFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errIncomplete)
	}
	l, err := parsePackage(text)
	if err != nil {
		return nil, err
	}
	at := path.Join(name, l.File)
	f := &fetch{fsys: p.fsys, dst: p.dst}
	blob, err := f.putFrom(ctx, publishDir, at)
	if err != nil {
		return nil, err
	}
	if blob.Size() == 0 || blob.Size() > maxInstaller {
		return nil, badPackage("%s has %d bytes, at most %d", l.File, blob.Size(), int64(maxInstaller))
	}
	inputs := feed.DigestOf(fmt.Appendf(nil, "%s\n%s\n%x", feed.DigestOf(text), blob.Digest(), p.signer.Chain[0].Raw))
	if list := p.had[localMark(inputs)]; len(list) == 2 {
		return list, nil
	}
	bundle, _ := parseGUID(strings.ToLower(l.ID))
	for id := range p.known {
		if id.Update == bundle && id.Number >= l.Revision {
			return nil, badPackage("revision %d was published with other contents: raise revision above %d", l.Revision, id.Number)
		}
	}
	cabinet, err := p.wrap(ctx, l, blob)
	if err != nil {
		return nil, err
	}
	return l.documents(own, inputs, cabinet), nil
}

// wrap puts the installer into a cabinet, signs it and stores it.
func (p *publishing) wrap(ctx context.Context, l localPackage, blob feed.Blob) (f file, err error) {
	pr, pw := io.Pipe()
	go func() {
		pw.CloseWithError(cab.Write(pw, []cab.Source{{Name: l.File, Modified: l.Created, Size: blob.Size(), Body: blob}}))
	}()
	plain, err := p.dst.Put(ctx, "made:"+l.ID+".cab", pr)
	pr.CloseWithError(errors.New("not read to its end"))
	if err != nil {
		return f, err
	}
	pr, pw = io.Pipe()
	go func() {
		pw.CloseWithError(authenticode.SignCabinet(pw, plain, plain.Size(), p.signer, p.at))
	}()
	h := sha1.New()
	signed, err := p.dst.Put(ctx, "made:"+l.ID+".cab", io.TeeReader(pr, h))
	pr.CloseWithError(errors.New("not read to its end"))
	if err != nil {
		return f, err
	}
	return file{Name: strings.ToLower(l.ID) + ".cab", Size: signed.Size(), SHA1: [20]byte(h.Sum(nil)), SHA256: signed.Digest()}, nil
}
