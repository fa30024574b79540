package diode

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashike/hashike/internal/durable"
)

const doneFile = "received"

// loadDone reads which sessions arrived whole: one line each, newest last.
func (r *Receiver) loadDone() error {
	b, err := os.ReadFile(filepath.Join(r.o.Dir, doneFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := 0; i+32 < len(b); i += 33 {
		if id, err := hex.DecodeString(string(b[i : i+32])); err == nil && b[i+32] == '\n' {
			r.done[ID(id)] = true
		}
	}
	return nil
}

// remember notes durably that a session is whole.
func (r *Receiver) remember(id ID) error {
	at := filepath.Join(r.o.Dir, doneFile)
	b, err := os.ReadFile(at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b = append(b, hex.EncodeToString(id[:])+"\n"...)
	if n := len(b) / 33; n > maxRemembered {
		b = b[(n-maxRemembered)*33:]
	}
	return durable.WriteFile(at, b)
}
