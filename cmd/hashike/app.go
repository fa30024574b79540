package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/all"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
)

const (
	outside = "outside"
	inside  = "inside"
)

// app is one invocation of the command.
type app struct {
	data  string // --data
	lang  string // --lang
	in    io.Reader
	out   io.Writer
	err   io.Writer
	cat   *i18n.Catalog
	kinds []feed.Kind
	clock func() time.Time

	command string // what ran, for the messages
	called  bool   // the catalogue knows whom to call

	typing bool          // a person types: questions can be asked
	lines  *bufio.Reader // of in, once a question was asked
}

// run is the whole command; it returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	return newApp(in, out, errw, langOf(args)).execute(ctx, args)
}

func (a *app) execute(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	c, err := root.ExecuteContextC(ctx)
	a.command = c.CommandPath()
	return a.report(err)
}

func newApp(in io.Reader, out, errw io.Writer, lang string) *app {
	cat, err := i18n.Load(i18n.Lang(lang), i18n.Contact{})
	if err != nil {
		panic(err) // the catalogue is part of the program; a test reads it
	}
	return &app{in: in, typing: isTerminal(in), out: out, err: errw, kinds: all.Kinds(), clock: time.Now, lang: lang, cat: cat}
}

// langOf finds --lang before the flags are parsed: the help texts need it.
func langOf(args []string) string {
	for i, v := range args {
		if s, ok := strings.CutPrefix(v, "--lang="); ok {
			return s
		}
		if v == "--lang" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{Use: "hashike", Short: a.cat.T("cmd.root"), SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().StringVar(&a.data, "data", defaultData(), a.cat.T("flag.data"))
	root.PersistentFlags().StringVar(&a.lang, "lang", a.lang, a.cat.T("flag.lang"))
	root.AddCommand(a.initCommand(), a.setupMediumCommand(), a.checkCommand(), a.fetchCommand(), a.packCommand(), a.pushCommand(), a.pullCommand(), a.importCommand(), a.needCommand(), a.publishCommand(),
		a.rollbackCommand(), a.withdrawCommand(), a.serveCommand(), a.runCommand(), a.statusCommand(), a.coverageCommand(), a.exportCommand(), a.originCommand(),
		a.clientCommand(), a.terminalsCommand(), a.decideCommand(), a.gcCommand(), a.scrubCommand(), a.keysCommand(), a.orderCommand(), a.approveCommand(), a.receiptCommand(), a.baseCommand(), a.auditCommand(), a.scanCommand(), a.personCommand(), a.approvalCommand(), a.mediaCommand(), a.diodeCommand(), a.quickstartCommand(), a.termsCommand(), a.intakeCommand(), a.versionCommand())
	root.AddCommand(a.zoneCommand())
	a.dress(root)
	return root
}

// defaultData is where a service keeps its data when --data is not given.
func defaultData() string {
	if d := os.Getenv("HASHIKE_DATA"); d != "" {
		return d
	}
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("ProgramData"), "Hashike")
	}
	return "/var/lib/hashike"
}

// station is an opened data directory.
type station struct {
	*app
	side  string
	site  int
	dir   state.Dir
	db    *state.DB
	cfg   *config.File
	store *cas.Store
	log   *slog.Logger
	floor time.Time
	actor state.Actor
	zone  zones

	scanSilence time.Duration // tests: how long a scanner may say nothing; 0 is the scanner's own
}

// open opens the data directory for a command of the given side ("" is
// either), prints the side to stderr, and refuses the other side's.
func (a *app) open(command, side string) (*station, error) {
	dir, err := filepath.Abs(a.data)
	if err != nil {
		return nil, err
	}
	s := &station{app: a, dir: state.Dir(dir), db: state.At(state.Dir(dir), command)}
	if _, err := os.Stat(s.dir.DB()); errors.Is(err, fs.ErrNotExist) {
		return nil, feed.NewFault(fmt.Errorf("%s: %w: %w", dir, err, feed.ErrConfig), "H-203", "dir", dir)
	} else if err != nil {
		return nil, err
	}
	if s.side, s.site, err = s.db.Identity(); err != nil {
		return nil, err
	}
	if side != "" && s.side != side {
		fmt.Fprintln(a.err, a.cat.T("side."+s.side))
		return nil, feed.NewFault(fmt.Errorf("%s on the %s: %w", command, s.side, feed.ErrWrongSide), "H-201",
			"command", command, "side", a.cat.T("side."+s.side), "other", a.cat.T("side."+side))
	}
	if s.cfg, err = config.Load(s.dir.Config(), a.kinds); err != nil {
		return nil, err
	}
	if s.cfg.Side != s.side {
		return nil, feed.NewFault(fmt.Errorf("%s says side %q, the data is of the %s: %w", s.dir.Config(), s.cfg.Side, s.side, feed.ErrConfig),
			"H-202", "file", s.dir.Config(), "detail", "side = "+s.cfg.Side)
	}
	if a.cat, err = i18n.Load(a.cat.Language(), s.cfg.Contact); err != nil {
		return nil, err
	}
	a.called = true
	if err := s.readZone(); err != nil {
		return nil, err
	}
	fmt.Fprintln(a.err, s.banner())
	if err := s.db.View(func(tx state.Tx) (err error) { s.floor, err = tx.Floor(); return err }); err != nil {
		return nil, err
	}
	if err := s.identify(command); err != nil {
		return nil, err
	}
	if err := s.settleZone(command); err != nil {
		return nil, err
	}
	s.log = slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: inJST}))
	s.store, err = cas.Open(dir, s.now)
	return s, err
}

// banner names the side and the network: every screen begins with it.
func (s *station) banner() string {
	key := "side." + s.side
	if s.side == inside && s.cfg.Zone == myNumber {
		key = "side.mynumber"
	}
	line := s.cat.T(key)
	if s.cfg.Name != "" {
		line += "　" + s.cfg.Name
	}
	return line
}

// now is the reference time: never before the newest signed time accepted.
func (s *station) now() time.Time {
	if now := s.clock(); now.After(s.floor) {
		return now
	}
	return s.floor
}

func (s *station) close() {
	if s.store != nil {
		s.store.Close()
	}
}

// with opens the data directory, runs f and closes it.
func (a *app) with(command, side string, f func(*station) error) error {
	s, err := a.open(command, side)
	if err != nil {
		return err
	}
	defer s.close()
	return f(s)
}

// audit records one act that needs no other change of state.
func (s *station) audit(what string, err error, detail map[string]string) error {
	result := "ok"
	if err != nil {
		result = err.Error()
	}
	return s.db.Update(func(tx state.Tx) error {
		return tx.Audit(state.Record{Time: s.clock(), Floor: s.floor, Who: s.who(), What: what, Result: result, Detail: detail})
	})
}

// terminal reports whether a person is watching: only then is there progress.
func (a *app) terminal() bool {
	f, ok := a.err.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Exit codes by class of error; documented in README.md.
const (
	exitOther     = 1
	exitConfig    = 2
	exitTransient = 3
	exitUpstream  = 4
	exitUntrusted = 5
	exitHeld      = 6
	exitDamaged   = 7
	exitMachine   = 8
)

// class maps an error to its exit code and, for one without a message of its
// own, the message that says it.
func class(err error) (exit int, code string) {
	var usage usageError
	if f := faults(err); len(f) > 0 && strings.HasPrefix(f[0].Code, "H-8") {
		return exitMachine, f[0].Code
	}
	switch {
	case durable.IsFull(err):
		return exitMachine, "H-801"
	case errors.Is(err, state.ErrBusy), durable.Held(err):
		return exitMachine, "H-804"
	case errors.As(err, &usage):
		return exitConfig, "H-211"
	case errors.Is(err, feed.ErrWrongSide):
		return exitConfig, "H-212"
	case errors.Is(err, fs.ErrPermission):
		return exitMachine, "H-821"
	case errors.Is(err, feed.ErrRollback):
		return exitUntrusted, "H-505"
	case errors.Is(err, feed.ErrUntrusted):
		return exitUntrusted, "H-502"
	case errors.Is(err, feed.ErrDamaged):
		return exitDamaged, "H-702"
	case errors.Is(err, feed.ErrHeld):
		return exitHeld, "H-601"
	case errors.Is(err, feed.ErrUpstream):
		return exitUpstream, "H-401"
	case errors.Is(err, feed.ErrTransient):
		return exitTransient, "H-301"
	case errors.Is(err, feed.ErrConfig):
		return exitConfig, "H-212"
	}
	return exitOther, "H-901"
}

// faults lists every message within an error: one failing feed among three is
// one message among three.
func faults(err error) []*feed.Fault {
	if err == nil {
		return nil
	}
	if f, ok := err.(*feed.Fault); ok {
		return []*feed.Fault{f}
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		var out []*feed.Fault
		for _, sub := range e.Unwrap() {
			out = append(out, faults(sub)...)
		}
		return out
	case interface{ Unwrap() error }:
		return faults(e.Unwrap())
	}
	return nil
}

// report shows an error as messages of the catalogue and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	exit, code := class(err)
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.err, a.cat.T("interrupted"))
		return exitOther
	}
	var told toldError
	if errors.As(err, &told) {
		return exit
	}
	found := faults(err)
	var usage usageError
	if errors.As(err, &usage) {
		found = []*feed.Fault{{Code: code, Err: usage, Args: map[string]string{}}}
	}
	if durable.IsFull(err) || len(found) == 0 { // a full disk says so, whatever it interrupted
		found = []*feed.Fault{{Code: code, Err: err, Args: map[string]string{"file": "", "feed": ""}}}
	}
	a.contacts()
	for _, f := range found {
		args := a.filled(f)
		if f.Code == "H-801" {
			if args["need"] == "0" || args["need"] == "" {
				args["need"] = a.cat.T("more.space")
			}
			if free, ferr := durable.Free(a.data); ferr == nil && (args["free"] == "" || args["free"] == "0") {
				args["free"] = bytesText(free)
			}
		}
		fmt.Fprintln(a.err, a.cat.Render(f.Code, a.shown(args)))
	}
	return exit
}

// filled is what a message's sentences name: what the fault brings, and what
// only the command knows.
func (a *app) filled(f *feed.Fault) map[string]string {
	args := map[string]string{"detail": f.Err.Error(), "help": a.command + " --help", "command": a.command, "file": ""}
	if f.Code == "H-202" || f.Code == "H-219" {
		args["file"] = state.Dir(a.data).Config()
	}
	for k, v := range f.Args {
		args[k] = v
	}
	if f.Code == "H-201" && args["other"] == "" { // of a package that has no words
		args["other"] = a.cat.T("side." + map[string]string{inside: outside, outside: inside}[args["side"]])
		args["side"] = a.cat.T("side." + args["side"])
	}
	args["detail"] = a.plainly(args["detail"])
	return args
}

// contacts looks up whom to call, where nothing has read the configuration:
// the message is about something else, so a configuration that cannot be read
// only leaves the line to be filled in by hand.
func (a *app) contacts() {
	if a.called {
		return
	}
	a.called = true
	cfg, err := config.Load(state.Dir(a.data).Config(), a.kinds)
	if err != nil {
		return
	}
	if cat, err := i18n.Load(a.cat.Language(), cfg.Contact); err == nil {
		a.cat = cat
	}
}

// shown gives values their form for people: dates in JST, strengths in words.
func (a *app) shown(args map[string]string) map[string]string {
	for k, v := range args {
		if t, err := time.Parse(time.RFC3339, v); err == nil {
			args[k] = i18n.Date(t, a.cat.Language())
		}
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && (k == "need" || k == "free") { // bytes; a count has another name
			args[k] = bytesText(n)
		}
		if name := a.cat.T("role.is." + v); k == "role" && !strings.HasPrefix(name, "role.is.") {
			args[k] = name
		}
		if name := a.cat.T("media.is." + v); k == "state" && !strings.HasPrefix(name, "media.is.") {
			args[k] = name
		}
		if name := a.cat.T("wanted." + v); k == "wanted" && !strings.HasPrefix(name, "wanted.") {
			args[k] = name
		}
		if k == "number" && args["bundle"] == "" {
			args["bundle"] = v
		}
		if k == "strength" || k == "floor" {
			if t := a.cat.T("strength." + v); !strings.HasPrefix(t, "strength.") {
				args[k] = t
			}
		}
	}
	return args
}

// bytesText writes a size for people: 3.8 GB.
func bytesText(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	v, i := float64(n), 0
	for v >= 1000 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
