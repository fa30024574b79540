package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/csv"
	"fmt"
	"html/template"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
)

//go:embed drop.html
var dropHTML string

// dropStage is where the volume lies until it is a drop.
func (s *station) dropStage(o packOptions) (string, error) {
	if o.repeat < 1 {
		return "", usageError{fmt.Errorf("--repeat %d: %s", o.repeat, s.cat.T("flag.repeat"))}
	}
	dir := filepath.Join(s.dir.Outbox(), "drop")
	if err := durable.RemoveAll(dir); err != nil { // of a killed run
		return "", err
	}
	if o.dry {
		return dir, nil
	}
	return dir, durable.Mkdir(dir)
}

// pieceSize reads a size such as 100MiB: at least 1 MiB, at most 1 GiB.
func pieceSize(text string) (int64, error) {
	for unit, n := range map[string]int64{"MiB": 1 << 20, "MB": 1e6, "GiB": 1 << 30} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			v, err := strconv.ParseInt(digits, 10, 32)
			if err == nil && v > 0 && v*n >= 1<<20 && v*n <= 1<<30 {
				return v * n, nil
			}
		}
	}
	return 0, strconv.ErrSyntax
}

// toDrop turns the staged volume into plain files.
func (s *station) toDrop(ctx context.Context, r packager.Report, o packOptions) ([]packager.DropFile, error) {
	stage := r.Dirs[0]
	free, err := durable.Free(o.to[0])
	if err != nil {
		return nil, err
	}
	if need := r.Bytes * int64(o.repeat); free < need {
		return nil, feed.NewFault(fmt.Errorf("%s: the files need %d bytes, %d are free", o.to[0], need, free), "H-801",
			"number", strconv.FormatUint(r.Number, 10), "need", strconv.FormatInt(need, 10), "free", strconv.FormatInt(free, 10))
	}
	files, err := packager.WriteDrop(ctx, stage, o.to[0], packager.DropOptions{Number: r.Number, Ext: o.dropExt, Repeat: o.repeat})
	if err != nil {
		return nil, err
	}
	return files, durable.RemoveAll(stage)
}

// hashPage is the sheet for whoever approves files at a gateway.
type hashPage struct {
	sheet
	Head                 string
	Name, Size, Hash     string
	Files                []hashLine
	ContentsHead, Checks string
	Contents             []string
}

type hashLine struct {
	Name   string
	Size   string
	Digest string
}

// hashSheet writes name, size and SHA-256 of every file for the approver, as a
// page and as a table, beside the carry sheet and not into the drop.
func (s *station) hashSheet(sh sheet, r packager.Report, files []packager.DropFile, out io.Writer) error {
	p := hashPage{sheet: sh, Head: s.cat.T("drop.head", r.Number, len(files)), Name: s.cat.T("drop.name"), Size: s.cat.T("drop.size"), Hash: "SHA-256"}
	p.Title = s.cat.T("drop.title")
	for _, row := range sh.Rows {
		switch row.Label {
		case s.cat.T("sheet.contents"):
			p.ContentsHead, p.Contents = row.Label, row.Lines
		case s.cat.T("sheet.scan"):
			p.Checks = row.Label + ": " + row.Value
		}
	}
	var table bytes.Buffer
	table.WriteString("\ufeff")
	w := csv.NewWriter(&table)
	w.UseCRLF = true
	w.Write([]string{p.Name, p.Size, p.Hash})
	for _, f := range files {
		p.Files = append(p.Files, hashLine{f.Name, strconv.FormatInt(f.Size, 10), f.Digest.Hex()})
		w.Write([]string{f.Name, strconv.FormatInt(f.Size, 10), f.Digest.Hex()})
	}
	w.Flush()
	tmpl, err := template.New("drop").Parse(dropHTML)
	if err != nil {
		return err
	}
	base := filepath.Join(s.dir.Outbox(), fmt.Sprintf("drop-%05d", r.Number))
	if err := durable.WriteFrom(base+".html", func(w io.Writer) error { return tmpl.Execute(w, p) }); err != nil {
		return err
	}
	if err := durable.WriteFile(base+".csv", table.Bytes()); err != nil {
		return err
	}
	fmt.Fprintln(out, s.cat.T("drop.written", base+".html", base+".csv"))
	return nil
}
