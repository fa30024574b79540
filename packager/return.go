package packager

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// A return file is the one thing an inside may write on a medium, where an
// operator allows it for one carry (--return): what would otherwise be typed.
//
//	hashike-return 1
//	receipt 12345 1 …      as shown; only for a complete state
//	need XXXX-XXXX-…       as shown; only if something lacks
//
// UTF-8, CRLF. It needs no signature: a receipt code proves itself, and a need
// list only says what to carry again.
type Return struct {
	Receipt string
	Need    string
}

// nameReturn is the file's name at the top of the medium.
const nameReturn = "hashike-return.txt"

const (
	returnHead   = "hashike-return 1"
	maxReturn    = 4*maxNeed + 4096
	bucketReturn = "returns" // set digest → time: one file for one carry
)

// WriteReturn writes the file on a medium: one for one bundle, and never over
// one that is there (H-649). what is logged before, so that no file exists that
// the log does not know.
func WriteReturn(db *state.DB, dir string, r Return, number uint64, set feed.Digest, now time.Time) error {
	refuse := func(why string) error {
		return feed.NewFault(fmt.Errorf("return file of bundle %d: %s: %w", number, why, feed.ErrHeld), "H-649", "number", strconv.FormatUint(number, 10))
	}
	dir = volumesIn([]string{dir})[0]
	if _, err := os.Lstat(filepath.Join(dir, nameReturn)); !errors.Is(err, fs.ErrNotExist) {
		return refuse("the medium has one already")
	}
	err := db.Update(func(tx state.Tx) error {
		var at time.Time
		if ok, err := tx.Get(bucketReturn, string(set), &at); err != nil || ok {
			if err == nil {
				err = refuse("it was written on " + at.Format(time.RFC3339))
			}
			return err
		}
		if err := tx.Put(bucketReturn, string(set), now.UTC()); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: now, What: "return", Result: "ok", Detail: map[string]string{
			"bundle": strconv.FormatUint(number, 10), "file": nameReturn, "receipt": strconv.FormatBool(r.Receipt != ""), "need": strconv.FormatBool(r.Need != ""),
		}})
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, nameReturn), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, r.text())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

func (r Return) text() string {
	s := returnHead + "\r\n"
	if r.Receipt != "" {
		s += "receipt " + r.Receipt + "\r\n"
	}
	if r.Need != "" {
		s += "need " + r.Need + "\r\n"
	}
	return s
}

// ReadReturn reads the return file of a medium that came back. Its lines are
// as good as typed ones: EnterReceipt and ParseNeed judge them.
func ReadReturn(dir string) (Return, error) {
	m, err := openMedium(volumesIn([]string{dir})[0])
	if err != nil {
		return Return{}, err
	}
	defer m.close()
	b, err := m.read(nameReturn, maxReturn)
	if err != nil {
		return Return{}, err
	}
	return parseReturn(string(b))
}

func parseReturn(text string) (Return, error) {
	bad := unreadable(nameReturn, errors.New("not a return file"))
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxReturn)
	if !lines.Scan() || lines.Text() != returnHead {
		return Return{}, bad
	}
	var r Return
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch {
		case word == "receipt" && r.Receipt == "" && rest != "":
			r.Receipt = rest
		case word == "need" && r.Need == "" && rest != "":
			r.Need = rest
		default:
			return Return{}, bad
		}
	}
	if lines.Err() != nil || r == (Return{}) {
		return Return{}, bad
	}
	return r, nil
}
