package defender

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/pe"
	"github.com/hashike/hashike/internal/format/zipfile"
)

// manifest is manifest.json of the offline mirror (microsoft/mdatp-xplat,
// definition_downloader).
type manifest struct {
	Engine      string `json:"EngineVersion"`
	Definitions string `json:"DefinitionVersion"`
}

var versionText = regexp.MustCompile(`^[0-9]{1,5}(\.[0-9]{1,5}){3}$`)

// version reads "1.441.7.0"; false if it is none.
func version(s string) (v pe.Version, ok bool) {
	if !versionText.MatchString(s) {
		return v, false
	}
	for i, p := range strings.Split(s, ".") {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return v, false
		}
		v[i] = uint16(n)
	}
	return v, v[0] < 1<<15
}

func (m manifest) check() error {
	_, ok := version(m.Definitions)
	_, ok2 := version(m.Engine)
	if !ok || !ok2 {
		return fmt.Errorf("versions %.60q and %.60q", m.Engine, m.Definitions)
	}
	return nil
}

// parseManifest reads a manifest.json. It may say more than is read of it.
func parseManifest(b []byte) (m manifest, err error) {
	if len(b) > maxManifest {
		return m, fmt.Errorf("manifest of %d bytes", len(b))
	}
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(b, []byte("\xEF\xBB\xBF"))))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("manifest: something behind it")
	}
	return m, m.check()
}

// encode writes a manifest as the vendor's downloader does.
func (m manifest) encode() []byte {
	b, _ := json.MarshalIndent(m, "", "  ") // two strings
	return append(b, '\n')
}

// parseInfo reads the document that the link answers with action=info: <engine>
// and <signatures date="…"> somewhere in it, with their versions.
func parseInfo(b []byte) (m manifest, err error) {
	if len(b) > maxManifest {
		return m, fmt.Errorf("information of %d bytes", len(b))
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	for depth := 0; ; {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return m, m.check()
		}
		if err != nil {
			return m, fmt.Errorf("information: %w", err)
		}
		switch t := t.(type) {
		case xml.Directive:
			return m, errors.New("information: a document type")
		case xml.EndElement:
			depth--
		case xml.StartElement:
			if depth++; depth > 16 {
				return m, errors.New("information: too deep")
			}
			into := map[string]*string{"engine": &m.Engine, "signatures": &m.Definitions}[t.Name.Local]
			if into == nil || *into != "" {
				continue
			}
			var s string
			if err := d.DecodeElement(&s, &t); err != nil {
				return m, fmt.Errorf("information: %w", err)
			}
			depth--
			*into = strings.TrimSpace(s)
		}
	}
}

// Limits on a package.
const (
	maxMembers  = 10_000
	maxUnpacked = 4 << 30
)

func openZip(r io.ReaderAt, size int64) (*zip.Reader, error) {
	z, err := zipfile.Open(r, size)
	if err != nil {
		return nil, fmt.Errorf("package: %w", err)
	}
	if len(z.File) == 0 || len(z.File) > maxMembers {
		return nil, fmt.Errorf("package of %d files", len(z.File))
	}
	return z, nil
}

// zipTime is the newest member's time.
func zipTime(r io.ReaderAt, size int64) (newest time.Time, err error) {
	z, err := openZip(r, size)
	if err != nil {
		return newest, err
	}
	for _, f := range z.File {
		if at := f.Modified.UTC().Truncate(time.Second); at.After(newest) {
			newest = at
		}
	}
	return newest, nil
}

// checkZip reads a package to its end: every member with its checksum, within
// the limits, under a name that stays inside.
func checkZip(r io.ReaderAt, size int64) error {
	z, err := openZip(r, size)
	if err != nil {
		return err
	}
	left := int64(maxUnpacked)
	for _, f := range z.File {
		if !feed.ValidPath(strings.TrimSuffix(f.Name, "/")) {
			return fmt.Errorf("package: name %.200q", f.Name)
		}
		rc, err := f.Open()
		if err != nil {
			return fmt.Errorf("package: %s: %w", f.Name, err)
		}
		n, err := io.Copy(io.Discard, io.LimitReader(rc, left+1))
		rc.Close()
		if left -= n; err != nil {
			return fmt.Errorf("package: %s: %w", f.Name, err)
		}
		if left < 0 {
			return fmt.Errorf("package unpacks to over %d bytes", int64(maxUnpacked))
		}
	}
	return nil
}
