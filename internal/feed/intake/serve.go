package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/msi"
	"github.com/hashike/hashike/internal/format/pe"
)

// Handler implements feed.Feed: the files.
func (x *Intake) Handler(s feed.Serving) (http.Handler, error) {
	return feed.FileHandler(s), nil
}

// descriptors are those of a snapshot.
func descriptors(c feed.Content) ([]Descriptor, error) {
	var out []Descriptor
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		if e, ok := parsePath(a.Path); !ok || e.kind != isDescriptor {
			continue
		}
		b, err := read(c, a.Path, maxDescriptor)
		if err != nil {
			return nil, err
		}
		if d, err := ParseDescriptor(b); err == nil {
			out = append(out, d)
		}
	}
	return out, nil
}

// Installers implements feed.Catalogue: what the descriptor says, and of
// Windows Installer packages and patches what they say of themselves.
func (x *Intake) Installers(c feed.Content) ([]feed.Installer, error) {
	all, err := descriptors(c)
	if err != nil {
		return nil, err
	}
	var out []feed.Installer
	for _, d := range all {
		if x.held(d.Product, d.Version) != "" {
			continue
		}
		i, err := d.detailed(c)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

func (d Descriptor) detailed(c feed.Content) (feed.Installer, error) {
	i := d.installer()
	i.Entries = []feed.AddRemove{{Name: i.Name, Publisher: i.Publisher, Version: i.Version}}
	if d.Type != "msi" && d.Type != "wix" && d.Type != "msp" {
		return i, nil
	}
	f, err := c.Open(i.Path)
	if err != nil {
		return i, fmt.Errorf("%s: %w: %w", i.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	st, err := f.Stat()
	r, ok := f.(io.ReaderAt)
	if err != nil || !ok {
		return i, fmt.Errorf("%s cannot be read: %w", i.Path, errors.Join(err, feed.ErrDamaged))
	}
	if d.Type == "msp" {
		if p, err := msi.ReadPatch(r, st.Size()); err == nil {
			i.Targets, i.Entries = p.Targets, nil
		}
		return i, nil
	}
	if p, err := msi.Read(r, st.Size()); err == nil {
		if m, err := p.Installer(i.Path); err == nil {
			i.ProductCode, i.UpgradeCode, i.Scope, i.Entries = m.ProductCode, m.UpgradeCode, m.Scope, m.Entries
		}
	}
	return i, nil
}

// Look is what a file says of itself: a draft of its descriptor, to be filled
// in and confirmed by a person. Nothing in it is proved.
func Look(name string, r io.ReaderAt, size int64) Descriptor {
	d := Descriptor{File: name, Arch: "neutral"}
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		d.Type = strings.ToLower(name[i+1:])
	}
	switch d.Type {
	case "exe":
		s, err := pe.ReadSetup(r, size)
		if err != nil {
			s.Info, err = pe.Read(r, size)
		}
		if err != nil {
			break
		}
		line := func(k string) string { return strings.Join(strings.Fields(s.Strings[k]), " ") }
		d.Name, d.Vendor, d.Says = line("ProductName"), line("CompanyName"), s.File.String()
		d.Arch = map[uint16]string{pe.MachineI386: "x86", pe.MachineAMD64: "x64", pe.MachineARM64: "arm64"}[s.Machine]
		switch s.Maker {
		case "nullsoft":
			d.Type, d.Silent = s.Maker, "/S"
		case "inno":
			d.Type, d.Silent, d.Success = s.Maker, "/SP- /VERYSILENT /SUPPRESSMSGBOXES /NORESTART", []int{3010}
		case "burn":
			d.Type, d.Silent, d.Success = s.Maker, "/quiet /norestart", []int{1641, 3010}
		}
	case "msi":
		if p, err := msi.Read(r, size); err == nil {
			i, _ := p.Installer(name) // what it does not say stays empty
			d.Name, d.Vendor, d.Says, d.Arch, d.Locale, d.Silent, d.Success = i.Name, i.Publisher, i.Version, i.Arch, i.Locale, i.Silent, i.Success
		}
	case "msp":
		d.Silent, d.Success = "/qn REBOOT=ReallySuppress", []int{1641, 3010}
		if p, err := msi.ReadPatch(r, size); err == nil && len(p.Steps) > 0 {
			d.Says = p.Steps[0].To
		}
	}
	return d
}

// Settings implements feed.ClientSettings: what to install, and how.
func (x *Intake) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	all, err := descriptors(c)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for _, d := range all {
		if x.held(d.Product, d.Version) == "" {
			fmt.Fprintf(&b, "%s %s\r\n  %s\r\n  SHA-256 %s\r\n  %s\r\n\r\n", d.Name, d.Version, base.JoinPath(d.path()), d.SHA256.Hex(), strings.TrimSpace(d.File+" "+d.Silent))
		}
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "受け入れたファイルの入れ方", EN: "How to install what was handed in"},
		File:  "hashike-intake.txt",
		Body:  b.String(),
		Note: feed.Text{
			JA: "端末へは、共有フォルダ（hashike export）かスタートアップ スクリプト、wingetの社内ソースで入れます。JUSTオンラインアップデートなど、製品自身の更新の確認は、端末の設定画面で止めてください（レジストリの場所は未確認です）。",
			EN: "Install by a file share (hashike export), a start-up script or the winget source. Switch the products' own update checks off on terminals (for JUST Online Update in its settings; its registry key is not confirmed).",
		},
	}}, nil
}

// Probe implements feed.Prober.
func (x *Intake) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	return feed.ProbeFiles(ctx, do, c, base)
}
