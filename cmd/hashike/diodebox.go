package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hashike/hashike/internal/diode"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/mirror"
)

// The outbox of the diode: each folder in it that holds a bundle is sent, and
// each need list (*.txt) is answered.
func (s *station) diodeBox() string { return filepath.Join(s.dir.Outbox(), "diode") }

const (
	boxEvery = 2 * time.Second
	boxStill = 10 * time.Second // a bundle is still being written until then
)

// lockLine keeps a second sender off the line: two that each keep the rate
// send twice of it.
func (s *station) lockLine() (func() error, error) {
	if err := durable.Mkdir(s.diodeDir()); err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(s.diodeDir(), "send.lock"), 0o600, &bolt.Options{Timeout: 200 * time.Millisecond})
	if err != nil {
		return nil, feed.NewFault(fmt.Errorf("diode send: %w", err), "H-804")
	}
	return db.Close, nil
}

func bundlesIn(box string) []string {
	ents, err := os.ReadDir(box)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range ents {
		if dir := filepath.Join(box, e.Name()); e.IsDir() && bundleIn(dir) {
			out = append(out, dir)
		}
	}
	return out
}

// readDiodeNeed reads a list from a file, from standard input ("-", a scanner
// that types), or as typed.
func (s *station) readDiodeNeed(text string) (diode.Need, error) {
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(s.in, 1<<20))
		if err != nil {
			return diode.Need{}, err
		}
		text = string(b)
	} else if st, err := os.Stat(text); err == nil && st.Mode().IsRegular() && st.Size() < 1<<20 {
		b, err := os.ReadFile(text)
		if err != nil {
			return diode.Need{}, err
		}
		text = string(b)
	} else if err := noFile(text, err); err != nil {
		return diode.Need{}, err
	}
	n, err := diode.ParseNeed(text)
	if err != nil {
		return n, feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrConfig), "H-222")
	}
	return n, nil
}

// diodeNeed writes what bundles on their way lack, for the outside.
func (s *station) diodeNeed() error {
	st, err := diode.ReadStatus(s.diodeDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	any := false
	for _, o := range st.Sessions {
		if o.Need == "" {
			continue
		}
		any = true
		name := "diode-need-" + o.ID[:min(16, len(o.ID))]
		fmt.Fprintln(s.out, s.cat.T("diode.open", o.Name, o.Have, o.Blocks))
		fmt.Fprintln(s.out, s.cat.T("diode.need", o.Need))
		if err := durable.WriteFile(filepath.Join(s.dir.Outbox(), name+".txt"), []byte(o.Need+"\r\n")); err != nil {
			return err
		}
		p := codePage{Title: s.cat.T("diode.need.title"), Head: s.cat.T("diode.open", o.Name, o.Have, o.Blocks), Text: o.Need, How: s.cat.T("diode.need.how")}
		if err := s.writeCodes(p, []string{strings.ReplaceAll(o.Need, " ", "")}, name+".html", s.out); err != nil {
			return err
		}
	}
	if !any {
		fmt.Fprintln(s.out, s.cat.T("diode.need.none"))
	}
	return nil
}

// handNeed leaves a list for the service that has the line.
func (s *station) handNeed(text string) error {
	n, err := s.readDiodeNeed(text)
	if err != nil {
		return err
	}
	if err := durable.Mkdir(s.diodeBox()); err != nil {
		return err
	}
	at := filepath.Join(s.diodeBox(), fmt.Sprintf("need-%x.txt", n.Session))
	if err := durable.WriteFile(at, []byte(n.String()+"\r\n")); err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("diode.handed"))
	return nil
}

// answer is the job that sends what a list names, of whichever folder it is.
func (s *station) answer(l *line, n diode.Need, dirs []string) (*diode.Job, error) {
	for _, dir := range dirs {
		j, err := s.diodeJob(dir, l, 0)
		if err != nil {
			return nil, err
		}
		if n.Of(j.ID()) {
			j.Only, j.Passes = n.Blocks, 1
			return j, nil
		}
	}
	return nil, feed.NewFault(fmt.Errorf("no folder is session %x: %w", n.Session, feed.ErrConfig), "H-229")
}

// box is what the service knows of the outbox.
type box struct {
	s     *station
	l     *line
	still time.Duration
	snd   *diode.Sender
	seen  map[string]sight
	sent  map[string]int // session → passes that are done
	file  string
	note  chan passed
	told  map[string]string // directory → what was told about it
}

// passed is a pass that is done, or a job that was dropped.
type passed struct {
	j    *diode.Job
	pass int // 0: dropped
}

// diodeOutbox sends what appears in the outbox until the context ends.
func (s *station) diodeOutbox(ctx context.Context, l *line, still time.Duration) error {
	unlock, err := s.lockLine()
	if err != nil {
		return err
	}
	defer unlock()
	if err := durable.Mkdir(s.diodeBox()); err != nil {
		return err
	}
	b := &box{s: s, l: l, still: still, seen: map[string]sight{}, sent: map[string]int{}, file: filepath.Join(s.diodeDir(), "sent.json"), note: make(chan passed, 64), told: map[string]string{}}
	if raw, err := os.ReadFile(b.file); err == nil {
		if err := json.Unmarshal(raw, &b.sent); err != nil {
			b.sent = map[string]int{} // then everything is sent once more
		}
	}
	l.o.Done = func(j *diode.Job, pass int) {
		select {
		case b.note <- passed{j, pass}:
		default: // sending never waits; at worst a pass is sent again after a restart
		}
	}
	l.o.Failed = func(j *diode.Job, _ error) { l.o.Done(j, 0) }
	if b.snd, err = diode.NewSender(l.wire, l.o); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- b.snd.Run(ctx, true) }()
	t := time.NewTicker(min(boxEvery, still))
	defer t.Stop()
	for {
		b.look(ctx)
		select {
		case err := <-done:
			return err
		case p := <-b.note:
			b.noted(p)
		case <-t.C:
		}
	}
}

// noted writes down that a pass is done, so that a restart does not send it
// again. A folder that could not be read to its end is looked at again.
func (b *box) noted(p passed) {
	j := p.j
	if p.pass == 0 {
		delete(b.seen, j.Dir)
		return
	}
	fmt.Fprintln(b.s.out, b.s.cat.T("diode.pass", j.Table.Name, p.pass, bytesText(j.Table.Bytes)))
	if j.Only != nil {
		return
	}
	id := j.ID()
	b.sent[hex.EncodeToString(id[:])]++
	raw, err := json.Marshal(b.sent)
	if err == nil {
		err = durable.WriteFile(b.file, raw)
	}
	if err != nil {
		b.s.app.report(err)
	}
}

// look hands folders that are new and still, and need lists, to the sender.
func (b *box) look(ctx context.Context) {
	for _, dir := range bundlesIn(b.s.diodeBox()) {
		before, stamp := b.seen[dir], treeStamp(dir)
		if before.stamp != stamp {
			b.seen[dir] = sight{stamp: stamp, since: time.Now()}
			continue
		}
		if before.taken || time.Since(before.since) < b.still {
			continue
		}
		if err := b.begin(dir); err != nil {
			b.seen[dir] = sight{stamp: stamp, since: time.Now()} // again after a while
			if b.told[dir] != err.Error() && ctx.Err() == nil {
				b.told[dir] = err.Error()
				b.s.app.report(b.s.diodeFault(err))
			}
			continue
		}
		delete(b.told, dir)
		before.taken = true
		b.seen[dir] = before
	}
	lists, _ := filepath.Glob(filepath.Join(b.s.diodeBox(), "*.txt"))
	for _, at := range lists {
		n, err := b.s.readDiodeNeed(at)
		var j *diode.Job
		if err == nil {
			j, err = b.s.answer(b.l, n, bundlesIn(b.s.diodeBox()))
		}
		if err == nil {
			b.snd.Add(j)
		}
		if rerr := durable.Rename(at, strings.TrimSuffix(at, ".txt")+".done"); rerr != nil {
			err = errors.Join(err, rerr)
		}
		if err != nil && ctx.Err() == nil {
			b.s.app.report(err)
		}
	}
}

func (b *box) begin(dir string) error {
	j, err := b.s.diodeJob(dir, b.l, 0)
	if err != nil {
		return err
	}
	if j.Passes > 0 {
		id := j.ID()
		if j.Passes -= b.sent[hex.EncodeToString(id[:])]; j.Passes <= 0 {
			return nil
		}
	}
	b.snd.Add(j)
	return nil
}

// lineStatus is the receiver's state for pages and metrics; nil without a line.
func (s *station) lineStatus() *mirror.Line {
	if s.cfg.Diode.Listen == "" {
		return nil
	}
	st, err := diode.ReadStatus(s.diodeDir())
	if errors.Is(err, fs.ErrNotExist) {
		return &mirror.Line{Drops: -1, Silent: s.floor} // nobody receives
	}
	if err != nil {
		return &mirror.Line{Drops: -1, Silent: s.floor, Problem: err.Error()}
	}
	l := &mirror.Line{Silent: st.Silent(s.clock()), Last: st.LastPacket, Rate: st.Rate, Loss: st.RecentLost, Packets: st.Packets, Lost: st.Lost, Foreign: st.Foreign + st.Newer,
		Drops: st.Drops, Rebuilt: st.Rebuilt, Buffer: st.Buffer.Got, BufferWanted: st.Buffer.Wanted, Problem: st.Problem, Done: len(st.Done)}
	for _, o := range st.Sessions {
		l.Open = append(l.Open, mirror.LineSession{Name: o.Name, Have: o.Have, Blocks: o.Blocks, Need: o.Need})
	}
	if n := len(st.Done); n > 0 {
		l.LastDone, l.LastName = st.Done[n-1].At, st.Done[n-1].Name
	}
	return l
}

// printLine shows the receiver's state in "status".
func (s *station) printLine() {
	l := s.lineStatus()
	if s.side != inside || l == nil {
		return
	}
	for _, words := range s.lineWords(l) {
		fmt.Fprintln(s.out, words)
	}
	for _, o := range slices.Clone(l.Open) {
		fmt.Fprintln(s.out, s.cat.T("diode.open", o.Name, o.Have, o.Blocks))
		if o.Need != "" {
			fmt.Fprintln(s.out, s.cat.T("diode.need", o.Need))
		}
	}
}

// lineWords says how the line does: in "status", and on the receipt, by which
// the outside learns what it cannot see.
func (s *station) lineWords(l *mirror.Line) (words []string) {
	if l == nil {
		return nil
	}
	if !l.Silent.IsZero() {
		words = append(words, s.cat.T("diode.silent", i18n.Date(l.Silent, s.cat.Language())))
	}
	words = append(words, s.cat.T("diode.status", i18n.Date(l.Last, s.cat.Language()), fmt.Sprintf("%.1f", l.Rate/1e6), fmt.Sprintf("%.2f%%", l.Loss*100), l.Drops, l.Foreign),
		s.cat.T("diode.counted", l.Packets, l.Lost, l.Rebuilt))
	if l.Problem != "" {
		words = append(words, s.cat.T("diode.problem", l.Problem))
	}
	return words
}
