package packager

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	bucketReturn = "returns" // inside: set digest → time: one file for one carry
	bucketTaken  = "taken"   // outside: digest of a return file → when it was taken
)

// WriteReturn writes the file into a directory that holds a volume: one for one
// bundle, and never over one that is there (H-649). It is logged before it says
// anything; one that could not be written (H-656) is logged too and does not count.
func WriteReturn(db *state.DB, dir string, r Return, number uint64, set feed.Digest, now time.Time) error {
	path := filepath.Join(dir, nameReturn)
	if err := db.View(func(tx state.Tx) error { return notReturned(tx, number, set) }); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return onlyOne(number, "the medium has one already")
	}
	if err != nil {
		return CannotReturn(dir, err)
	}
	if err = noteReturn(db, r, number, set, now); err == nil {
		if _, err = io.WriteString(f, r.text()); err == nil {
			err = f.Sync()
		}
		if err != nil {
			err = CannotReturn(dir, errors.Join(err, forgetReturn(db, number, set, err, now)))
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return durable.SyncDir(dir)
}

func onlyOne(number uint64, why string) error {
	return feed.NewFault(fmt.Errorf("return file of bundle %d: %s: %w", number, why, feed.ErrHeld), "H-649", "number", strconv.FormatUint(number, 10))
}

// CannotReturn is the fault of a medium that takes no return file. Why is not
// wrapped: a medium that is full must not pass for a full disk of this machine.
func CannotReturn(dir string, why error) error {
	return feed.NewFault(fmt.Errorf("%s takes no return file: %v: %w", dir, why, feed.ErrHeld), "H-656", "medium", dir)
}

// notReturned refuses a second file for one bundle.
func notReturned(tx state.Tx, number uint64, set feed.Digest) error {
	var at time.Time
	ok, err := tx.Get(bucketReturn, string(set), &at)
	if err == nil && ok {
		err = onlyOne(number, "it was written on "+at.Format(time.RFC3339))
	}
	return err
}

func noteReturn(db *state.DB, r Return, number uint64, set feed.Digest, now time.Time) error {
	return db.Update(func(tx state.Tx) error {
		if err := notReturned(tx, number, set); err != nil {
			return err
		}
		if err := tx.Put(bucketReturn, string(set), now.UTC()); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: now, What: "return", Result: "ok", Detail: map[string]string{
			"bundle": strconv.FormatUint(number, 10), "file": nameReturn, "receipt": strconv.FormatBool(r.Receipt != ""), "need": strconv.FormatBool(r.Need != ""),
		}})
	})
}

func forgetReturn(db *state.DB, number uint64, set feed.Digest, why error, now time.Time) error {
	return db.Update(func(tx state.Tx) error {
		if err := tx.Delete(bucketReturn, string(set)); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: now, What: "return", Result: why.Error(), Detail: map[string]string{
			"bundle": strconv.FormatUint(number, 10), "file": nameReturn}})
	})
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
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return Return{}, noMedium(dir, "return", err)
	}
	m, err := openMedium(volumesIn([]string{dir})[0])
	if err != nil {
		return Return{}, err
	}
	defer m.close()
	b, err := m.read(nameReturn, maxReturn)
	if errors.Is(err, fs.ErrNotExist) {
		return Return{}, noMedium(dir, "return", errors.New(nameReturn))
	}
	if err != nil {
		return Return{}, err
	}
	return parseReturn(string(b))
}

// NoteTaken remembers that all a return file said was taken.
func NoteTaken(tx state.Tx, r Return, now time.Time) error {
	return tx.Put(bucketTaken, string(feed.DigestOf([]byte(r.text()))), now.UTC())
}

// KeepReturns copies the return files that a medium holds and nobody took to
// the outbox, before it is written again. It returns the copies' directories.
func KeepReturns(db *state.DB, dir string) (kept []string, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, volume := range volumesIn([]string{dir}) {
		to, err := keepReturn(db, volume)
		if err != nil {
			return kept, err
		}
		if to != "" && !slices.Contains(kept, to) {
			kept = append(kept, to)
		}
	}
	return kept, nil
}

func keepReturn(db *state.DB, volume string) (string, error) {
	m, err := openPlain(volume)
	if err != nil {
		return "", err
	}
	defer m.close()
	raw, err := m.read(nameReturn, maxReturn)
	if err != nil {
		if notOurs(err) {
			err = nil
		}
		return "", err
	}
	r, err := parseReturn(string(raw))
	if err != nil {
		return "", nil // it says nothing that could be lost
	}
	var at time.Time
	var taken bool
	id := feed.DigestOf([]byte(r.text()))
	if err := db.View(func(tx state.Tx) (err error) { taken, err = tx.Get(bucketTaken, string(id), &at); return err }); err != nil || taken {
		return "", err
	}
	to := filepath.Join(db.Dir().Outbox(), "return-"+id.Hex()[:8])
	if err := durable.Mkdir(to); err != nil {
		return "", err
	}
	return to, durable.WriteFile(filepath.Join(to, nameReturn), []byte(r.text()))
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
