package packager

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// sign ends the tables, makes and signs the set and writes it: set.json and
// index.json last, after everything they name is on the disk.
func (w *writer) sign(key signature.Signer, chain [][]byte, c counter) (Set, error) {
	set, err := w.set(c, int64(len(chain)))
	if err != nil {
		return set, w.full(err)
	}
	raw, _, err := set.encode()
	if err != nil {
		return set, err
	}
	orders, err := ordersBytes(w.o.orders)
	if err != nil {
		return set, err
	}
	meta, err := signBundle(key, c.Version, set.Expires, raw, orders)
	if err != nil {
		return set, err
	}
	for i, r := range chain {
		meta[rootName(int64(i+1))] = r
	}
	for _, v := range w.vols {
		if err := v.finish(meta, orders, raw); err != nil {
			return set, w.full(err)
		}
	}
	return set, nil
}

// finish makes a directory full of files a volume.
func (v *volume) finish(meta map[string][]byte, orders, set []byte) error {
	for name, b := range meta {
		if err := v.write(dirTUF, name, b); err != nil {
			return err
		}
	}
	index, err := json.Marshal(v.index)
	if err != nil {
		return err
	}
	durable.Step("before medium flush")
	if _, err := durable.SyncFS(v.dir); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{nameOrders, orders}, {nameSet, set}, {nameIndex, index}} {
		if err := v.last(f.name, f.b); err != nil {
			return err
		}
	}
	_, err = durable.SyncFS(v.dir)
	return err
}

func (v *volume) last(name string, b []byte) error {
	t, err := v.create(".")
	if err != nil {
		return err
	}
	defer t.Discard()
	if _, err := t.Write(b); err != nil {
		return err
	}
	return t.Commit(v.path(name))
}

// set ends tables, README and layout file, and describes them.
func (w *writer) set(c counter, root int64) (Set, error) {
	s := Set{Schema: SetSchema, Format: setFormat, Sites: w.o.Sites, Number: c.Number, Version: c.Version, Root: root,
		Created: w.o.Now, Expires: w.o.Now.Add(w.o.Validity), Bytes: w.stream.n, Urgent: w.o.Urgent, Only: slices.Sorted(slices.Values(w.o.Only))}
	if w.o.Base != nil {
		s.Base = &BaseRef{w.o.Base.Number, w.o.Base.Set}
	}
	if s.Repairs = w.o.repairs; s.Repairs != nil {
		s.Base = w.o.repairsBase
	}
	if g := w.p.layout.geo; g.Groups > 0 {
		s.Parity = &Parity{g.Groups, g.Data, g.Parity}
	}
	var err error
	if s.Blobs, err = w.blobMap(); err != nil {
		return s, err
	}
	if s.Blocks, err = w.share(w.blocks, nameBlocks, blocksOf(s.Bytes)+s.geometry().ParityBlocks()); err != nil {
		return s, err
	}
	var lines []VolumeLine
	for _, v := range w.vols {
		if err := v.describe(s, len(w.vols)); err != nil {
			return s, err
		}
		lines = append(lines, v.line)
	}
	if s.Volumes, err = writeTable(w, nameVolumes, false, lines); err != nil {
		return s, err
	}
	if s.Feeds, err = writeTable(w, nameFeeds, true, w.feeds); err != nil {
		return s, err
	}
	orders, err := ordersBytes(w.o.orders)
	if err != nil {
		return s, err
	}
	s.Orders = Ref{feed.DigestOf(orders), int64(len(orders)), int64(len(w.o.orders))}
	return s, s.check()
}

// describe writes a volume's README and layout file and fills its line.
func (v *volume) describe(s Set, of int) error {
	index, err := json.Marshal(v.index)
	if err != nil {
		return err
	}
	if len(index) > maxIndex {
		return fmt.Errorf("index of %d bytes, at most %d fit", len(index), maxIndex)
	}
	text := readme(s, v.n, of, v.medium)
	v.line.Index, v.line.Layout, v.line.Readme = objectOf(index), objectOf([]byte(layoutString)), objectOf(text)
	return errors.Join(v.write(".", nameLayout, []byte(layoutString)), v.write(".", nameReadme, text))
}

// blobMap compresses the blob map, each volume's parity after its other
// containers, and writes it to every volume.
func (w *writer) blobMap() (Ref, error) {
	f, err := os.CreateTemp(w.o.work(), durable.TempPrefix)
	if err != nil {
		return Ref{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	t, err := newTableWriter(f, true)
	if err != nil {
		return Ref{}, err
	}
	if _, err := w.rows.Seek(0, io.SeekStart); err != nil {
		return Ref{}, err
	}
	at, lines := int64(0), int64(0)
	for _, v := range w.vols {
		if v.ends > at {
			if _, err := io.CopyN(t.out, w.rows, v.ends-at); err != nil {
				return Ref{}, err
			}
			at = v.ends
		}
		lines += v.rows
		for _, c := range v.parity {
			if err := t.line(c); err != nil {
				return Ref{}, err
			}
		}
	}
	if err := t.Close(); err != nil {
		return Ref{}, err
	}
	return w.share(f, nameBlobs, lines+t.lines)
}

// share copies a table that grew beside the outside's data to every volume.
func (w *writer) share(f *os.File, name string, lines int64) (Ref, error) {
	var r Ref
	for _, v := range w.vols {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return r, err
		}
		t, err := v.create(dirTables)
		if err != nil {
			return r, err
		}
		h := sha256.New()
		n, err := io.Copy(io.MultiWriter(t, h), f)
		if err == nil {
			durable.Step("before table " + name)
			err = v.commit(t, name)
		}
		t.Discard()
		if err != nil {
			return r, err
		}
		r = Ref{feed.DigestFrom(h), n, lines}
	}
	return r, nil
}

// writeTable writes a small table to every volume.
func writeTable[T any](w *writer, name string, compressed bool, lines []T) (Ref, error) {
	var buf bytes.Buffer
	t, err := newTableWriter(&buf, compressed)
	if err != nil {
		return Ref{}, err
	}
	for _, l := range lines {
		if err := t.line(l); err != nil {
			return Ref{}, err
		}
	}
	if err := t.Close(); err != nil {
		return Ref{}, err
	}
	for _, v := range w.vols {
		if err := v.write(dirTables, name, buf.Bytes()); err != nil {
			return Ref{}, err
		}
	}
	return Ref{feed.DigestOf(buf.Bytes()), int64(buf.Len()), t.lines}, nil
}

func (w *writer) dirs() (out []string) {
	for _, v := range w.vols {
		out = append(out, v.dir)
	}
	return out
}

func (w *writer) report(s Set, c counter) Report {
	_, id, _ := s.encode()
	r := w.packed
	r.Packed = Packed{Number: c.Number, Set: id, Sites: s.Sites, Created: s.Created, Expires: s.Expires, Bytes: s.Bytes, Feeds: w.feeds, Urgent: s.Urgent, Operator: w.o.Who, Account: w.o.Account, Media: w.o.Media}
	if s.Base != nil {
		r.Base = s.Base.Number
	}
	for _, v := range w.vols {
		r.Files += v.line.Containers
	}
	r.Dirs, r.Cover = w.dirs(), w.p.cover(w.o.limits)
	r.Volumes, r.StreamHash = len(w.vols), s.Blocks.Digest
	return r
}

// readmeHead begins every README of ours, of any number.
const readmeHead = "\ufeff艀 (Hashike) 更新便 "

// readmeLabel begins the line that names the medium.
const readmeLabel = "媒体番号 / medium: "

// readme tells a finder what this is. It holds no person, host name or address.
func readme(s Set, n, of int, medium string) []byte {
	date := s.Created.In(feed.JST()).Format("2006-01-02 15:04")
	label := ""
	if medium != "" { // a neutral number: it says nothing about whose it is
		label = readmeLabel + medium + "\r\n\r\n"
	}
	return fmt.Appendf(nil, readmeHead+"第%d便  %d枚中%d枚目  %s 作成 (JST)\r\n\r\n%s"+
		"これは、インターネットにつながらないネットワークへ、製造元の更新プログラムを運ぶための媒体です。\r\n"+
		"中のファイルを開いたり、消したり、書き足したりしないでください。取り込みは「hashike import」で行います。\r\n"+
		"拾った方は、お手数ですが媒体のラベルにある組織へお返しください。個人情報は入っていません。\r\n\r\n"+
		"Hashike bundle %d, volume %d of %d, made %s (JST)\r\n\r\n"+
		"This medium carries vendors' software updates to a network without internet.\r\n"+
		"Do not open, remove or add files. It is read with \"hashike import\".\r\n"+
		"If you found it, please return it to the organisation on its label. It holds no personal data.\r\n",
		s.Number, of, n, date, label, s.Number, n, of, date)
}
