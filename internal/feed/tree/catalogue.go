package tree

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/msi"
	"github.com/hashike/hashike/internal/format/pe"
)

// Installers implements feed.Catalogue: the Windows Installer packages of the
// tree, as their own tables describe them, and the programs that NSIS, Inno
// Setup or the WiX toolset's bootstrapper built, which take the same arguments
// everywhere. Others do not say how they are installed without a question.
func (t *tree) Installers(c feed.Content) ([]feed.Installer, error) {
	var out []feed.Installer
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		ext := strings.ToLower(path.Ext(a.Path))
		if ext != ".msi" && ext != ".exe" {
			continue
		}
		i, err := describe(c, a, ext)
		if errors.Is(err, msi.ErrFormat) || errors.Is(err, pe.ErrFormat) {
			continue // whatever it is, it installs no product
		}
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

func describe(c feed.Content, a feed.Artifact, ext string) (feed.Installer, error) {
	f, err := c.Open(a.Path)
	if err != nil {
		return feed.Installer{}, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return feed.Installer{}, fmt.Errorf("%s cannot be read in places: %w", a.Path, feed.ErrDamaged)
	}
	if ext == ".exe" {
		return program(r, a)
	}
	p, err := msi.Read(r, a.Size)
	if err != nil {
		return feed.Installer{}, fmt.Errorf("%s: %w", a.Path, err)
	}
	return p.Installer(a.Path)
}

// program describes an installer by its version resource and its maker's
// arguments (winget-cli, GetDefaultKnownSwitches).
func program(r io.ReaderAt, a feed.Artifact) (feed.Installer, error) {
	s, err := pe.ReadSetup(r, a.Size)
	if err != nil {
		return feed.Installer{}, fmt.Errorf("%s: %w", a.Path, err)
	}
	get := func(k string) string { return strings.Join(strings.Fields(s.Strings[k]), " ") }
	i := feed.Installer{Path: a.Path, Name: get("ProductName"), Publisher: get("CompanyName"), Version: get("ProductVersion"), Type: s.Maker}
	switch s.Maker {
	case "nullsoft":
		i.Silent = "/S"
	case "inno":
		i.Silent, i.Success = "/SP- /VERYSILENT /SUPPRESSMSGBOXES /NORESTART", []int{3010}
	case "burn":
		i.Silent, i.Success = "/quiet /norestart", []int{1641, 3010}
	}
	switch s.Machine {
	case pe.MachineI386:
		i.Arch = "x86"
	case pe.MachineAMD64:
		i.Arch = "x64"
	case pe.MachineARM64:
		i.Arch = "arm64"
	}
	if i.Version == "" || strings.ContainsAny(i.Version, " ,") {
		i.Version = s.File.String()
	}
	if i.ID = feed.InstallerID(i.Publisher, i.Name); i.Check() != nil {
		return i, fmt.Errorf("%s says too little of itself: %w", a.Path, pe.ErrFormat)
	}
	return i, nil
}
