package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
)

// isoStage is where volumes lie until they are images, and how large they may be.
func (s *station) isoStage(o packOptions, size int64) (dir string, volume int64, err error) {
	if len(o.to) != 1 || size == packager.WholeMedium {
		return "", 0, usageError{errors.New("--iso: " + s.cat.T("flag.iso"))}
	}
	dir = filepath.Join(s.dir.Outbox(), "iso")
	if err := durable.RemoveAll(dir); err != nil { // of a killed run
		return "", 0, err
	}
	if size > 0 {
		size -= packager.ISOMargin
	}
	if o.dry {
		return dir, size, nil
	}
	return dir, size, durable.Mkdir(dir)
}

// isoFits compares the images' size with the free space before anything is made.
func (s *station) isoFits(ctx context.Context, p packager.PackOptions, to string) error {
	e, err := packager.Preflight(ctx, p)
	if err != nil {
		return err
	}
	free, err := durable.Free(to)
	if err != nil {
		return err
	}
	if need := e.Bytes + int64(e.Volumes)*packager.ISOMargin; free < need {
		return feed.NewFault(fmt.Errorf("%s: the images need %d bytes, %d are free", to, need, free), "H-801",
			"number", "", "need", strconv.FormatInt(need, 10), "free", strconv.FormatInt(free, 10))
	}
	return nil
}

// images makes an image of every volume in to and removes the volumes.
func (s *station) images(ctx context.Context, r *packager.Report, to string) (made []string, err error) {
	bar := s.progress()
	defer bar.done()
	for i, dir := range r.Dirs {
		bar.step(s.cat.T("stage.iso"), int64(i), int64(len(r.Dirs)))
		path, aerr := filepath.Abs(filepath.Join(to, packager.ISOName(r.Number, i+1, len(r.Dirs))))
		if aerr == nil {
			_, aerr = packager.WriteISO(ctx, dir, path, r.Number, i+1, r.Created)
		}
		if aerr != nil { // half a bundle is not to be burnt
			for _, p := range made {
				aerr = errors.Join(aerr, durable.Remove(p))
			}
			return nil, aerr
		}
		made = append(made, path)
	}
	r.Dirs = made
	return made, durable.RemoveAll(filepath.Join(s.dir.Outbox(), "iso"))
}
