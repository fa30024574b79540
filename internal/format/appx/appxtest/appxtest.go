// Package appxtest makes app packages for tests: the archive as the packaging
// tools write it, and a signature. No vendor's file is needed, and none made by
// it leaves a test. What is made here is held against osslsigncode in verifier.
package appxtest

import (
	"bytes"
	"compress/flate"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/format/appx"
)

// Spec is a package to be made.
type Spec struct {
	appx.Identity
	Display, Vendor string
	Framework       bool
	Depends         []appx.Dependency
	Files           map[string][]byte
}

// Entry is one file of an archive.
type Entry struct {
	Name   string // as in the archive: percent-encoded
	Data   []byte
	Stored bool
	Plain  bool // sizes in the header, not behind the data
}

const types = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="txt" ContentType="text/plain"/><Override PartName="/AppxManifest.xml" ContentType="application/vnd.ms-appx.manifest+xml"/><Override PartName="/AppxBlockMap.xml" ContentType="application/vnd.ms-appx.blockmap+xml"/><Override PartName="/AppxSignature.p7x" ContentType="application/vnd.ms-appx.signature"/></Types>`

// Build makes an unsigned package.
func Build(s Spec) []byte {
	var deps strings.Builder
	for _, d := range s.Depends {
		fmt.Fprintf(&deps, `<PackageDependency Name="%s" MinVersion="%s" Publisher="%s"/>`, d.Name, d.Min, escape(d.Publisher))
	}
	manifest := fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?>
<Package xmlns="http://schemas.microsoft.com/appx/manifest/foundation/windows10"><Identity Name="%s" Publisher="%s" Version="%s" ProcessorArchitecture="%s"/><Properties><Framework>%t</Framework><DisplayName>%s</DisplayName><PublisherDisplayName>%s</PublisherDisplayName></Properties><Resources><Resource Language="ja-JP"/></Resources><Dependencies><TargetDeviceFamily Name="Windows.Desktop" MinVersion="10.0.17763.0" MaxVersionTested="10.0.22621.0"/>%s</Dependencies></Package>`,
		s.Name, escape(s.Publisher), s.Version, s.Architecture, s.Framework, escape(s.Display), escape(s.Vendor), deps.String())
	var entries []Entry
	for _, n := range slices.Sorted(maps.Keys(s.Files)) {
		entries = append(entries, Entry{Name: strings.NewReplacer(" ", "%20", "+", "%2B").Replace(n), Data: s.Files[n], Stored: strings.HasSuffix(n, ".bin")})
	}
	entries = append(entries, Entry{Name: appx.Manifest, Data: []byte(manifest)})
	entries = append(entries, Entry{Name: appx.BlockMap, Data: Map(entries)}, Entry{Name: appx.ContentTypes, Data: []byte(types), Plain: true})
	return Archive(entries)
}

// Bundle makes an unsigned bundle of packages, which need no signature.
func Bundle(id appx.Identity, packages map[string][]byte) []byte {
	var list strings.Builder
	var entries []Entry
	at := 0
	for _, n := range slices.Sorted(maps.Keys(packages)) {
		b := packages[n]
		p, err := appx.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			panic(err)
		}
		i, err := p.Info()
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&list, `<Package Type="application" Version="%s" Architecture="%s" FileName="%s" Offset="%d" Size="%d"/>`, i.Version, i.Architecture, n, at+30+len(n), len(b))
		at += 30 + len(n) + len(b) + 24
		entries = append(entries, Entry{Name: n, Data: b, Stored: true})
	}
	manifest := fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?>
<Bundle SchemaVersion="1.0" xmlns="http://schemas.microsoft.com/appx/2013/bundle"><Identity Name="%s" Publisher="%s" Version="%s"/><Packages>%s</Packages></Bundle>`, id.Name, escape(id.Publisher), id.Version, list.String())
	m := Entry{Name: appx.BundleManifest, Data: []byte(manifest)}
	return Archive(append(entries, m, Entry{Name: appx.BlockMap, Data: Map([]Entry{m})}, Entry{Name: appx.ContentTypes, Data: []byte(types), Plain: true}))
}

func escape(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s))
	return b.String()
}

// Map is the block map of files.
func Map(files []Entry) []byte {
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8" standalone="no"?>` + "\n" + `<BlockMap xmlns="http://schemas.microsoft.com/appx/2010/blockmap" HashMethod="http://www.w3.org/2001/04/xmlenc#sha256">`)
	for _, f := range files {
		name := strings.NewReplacer("%20", " ", "%2B", "+", "/", `\`).Replace(f.Name)
		fmt.Fprintf(&b, `<File Name="%s" Size="%d" LfhSize="%d">`, escape(name), len(f.Data), 30+len(f.Name))
		for c := range slices.Chunk(f.Data, 64<<10) {
			sum := sha256.Sum256(c)
			fmt.Fprintf(&b, `<Block Hash="%s"/>`, base64.StdEncoding.EncodeToString(sum[:]))
		}
		b.WriteString(`</File>`)
	}
	b.WriteString(`</BlockMap>`)
	return b.Bytes()
}

// Archive writes the ZIP, with the larger end records as the tools do.
func Archive(entries []Entry) []byte {
	var out, dir bytes.Buffer
	for _, e := range entries {
		dir.Write(e.record(&out))
	}
	return append(append(out.Bytes(), dir.Bytes()...), ends(len(entries), dir.Len(), out.Len())...)
}

func (e Entry) record(out *bytes.Buffer) (entry []byte) {
	le := binary.LittleEndian
	packed, method := e.Data, uint16(0)
	if !e.Stored {
		var z bytes.Buffer
		w, _ := flate.NewWriter(&z, 6)
		w.Write(e.Data)
		w.Close()
		packed, method = z.Bytes(), 8
	}
	crc, start := crc32.ChecksumIEEE(e.Data), out.Len()
	version, flags := uint16(45), uint16(8)
	if e.Plain {
		version, flags = 20, 0
	}
	h := append([]byte("PK\x03\x04"), make([]byte, 26)...)
	le.PutUint16(h[4:], version)
	le.PutUint16(h[6:], flags)
	le.PutUint16(h[8:], method)
	le.PutUint16(h[12:], (2026-1980)<<9|1<<5|1) // 1 January 2026
	le.PutUint16(h[26:], uint16(len(e.Name)))
	if e.Plain {
		le.PutUint32(h[14:], crc)
		le.PutUint32(h[18:], uint32(len(packed)))
		le.PutUint32(h[22:], uint32(len(e.Data)))
	}
	out.Write(h)
	out.WriteString(e.Name)
	out.Write(packed)
	if !e.Plain {
		d := le.AppendUint32([]byte("PK\x07\x08"), crc)
		out.Write(le.AppendUint64(le.AppendUint64(d, uint64(len(packed))), uint64(len(e.Data))))
	}
	c := append([]byte("PK\x01\x02"), make([]byte, 42)...)
	le.PutUint16(c[4:], 45)
	copy(c[6:], h[4:30])
	le.PutUint32(c[16:], crc)
	le.PutUint32(c[20:], uint32(len(packed)))
	le.PutUint32(c[24:], uint32(len(e.Data)))
	le.PutUint32(c[42:], uint32(start))
	return append(c, e.Name...)
}

func ends(n, length, at int) []byte {
	le := binary.LittleEndian
	b := append([]byte("PK\x06\x06"), make([]byte, 52)...)
	le.PutUint64(b[4:], 44)
	le.PutUint16(b[12:], 45)
	le.PutUint16(b[14:], 45)
	for i, v := range []int{n, n, length, at} {
		le.PutUint64(b[24+8*i:], uint64(v))
	}
	l := append([]byte("PK\x06\x07"), make([]byte, 16)...)
	le.PutUint64(l[8:], uint64(at+length))
	l[16] = 1
	e := []byte("PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00")
	return slices.Concat(b, l, e)
}

// Sign appends a signature.
func (p *Publisher) Sign(unsigned []byte) []byte {
	q, err := appx.Open(bytes.NewReader(unsigned), int64(len(unsigned)))
	if err != nil {
		panic(err)
	}
	blob, err := q.Digests(crypto.SHA256)
	if err != nil {
		panic(err)
	}
	_, bundle := q.Lookup(appx.BundleManifest)
	return Append(unsigned, append([]byte("PKCX"), p.signedData(blob, bundle)...))
}

// Append puts a signature block of any content at the archive's end.
func Append(unsigned, block []byte) []byte {
	le := binary.LittleEndian
	z := unsigned[len(unsigned)-22-20-56:]
	n, length, at := le.Uint64(z[32:]), le.Uint64(z[40:]), le.Uint64(z[48:])
	out := bytes.NewBuffer(bytes.Clone(unsigned[:at]))
	entry := Entry{Name: appx.Signature, Data: block, Plain: true}.record(out)
	dir := slices.Concat(unsigned[at:at+length], entry)
	return slices.Concat(out.Bytes(), dir, ends(int(n)+1, len(dir), out.Len()))
}
