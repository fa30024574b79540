package scan

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Placeholder stands for the file's path in a command.
const Placeholder = "{file}"

// Command is a product's program, started once for each file without a shell.
//
// Its exit code says what it found, as clamscan(1) and most others have it:
// 0 nothing, 1 a detection, whose name is the last line of its output that is
// not empty. Any other code, a signal, or no end in time is no verdict.
type Command struct {
	Args    []string      // the program and its arguments, one of which holds Placeholder
	Timeout time.Duration // for a file, and a second more for each MiB; 0 is ten minutes
	// Read, if not nil, judges exit code and output instead.
	Read func(exit int, output string) (Verdict, error)
	// Ident, if not nil, tells which product it is.
	Ident func(ctx context.Context) (Identity, error)
}

// Identify names the product by its program where it says nothing of itself.
func (c *Command) Identify(ctx context.Context) (Identity, error) {
	if len(c.Args) == 0 {
		return Identity{}, unavailable("no program is named")
	}
	if _, err := exec.LookPath(c.Args[0]); err != nil {
		return Identity{}, unavailable("%w", err)
	}
	if c.Ident != nil {
		return c.Ident(ctx)
	}
	return Identity{Engine: strings.TrimSuffix(filepath.Base(c.Args[0]), ".exe")}, nil
}

// Scan runs the program on the file.
func (c *Command) Scan(ctx context.Context, f *os.File, size int64) (Verdict, error) {
	limit := c.Timeout
	if limit <= 0 {
		limit = 10 * time.Minute
	}
	limit += time.Duration(size>>20) * time.Second
	args := make([]string, len(c.Args))
	for i, a := range c.Args {
		args[i] = strings.ReplaceAll(a, Placeholder, f.Name())
	}
	exit, out, err := output(ctx, limit, args)
	if err != nil {
		return Verdict{}, err
	}
	if c.Read != nil {
		return c.Read(exit, out)
	}
	switch exit {
	case 0:
		return Verdict{Result: Clean}, nil
	case 1:
		return Verdict{Infected, lastLine(out, "?")}, nil
	}
	return Verdict{}, unavailable("%s ended with code %d: %s", args[0], exit, lastLine(out, ""))
}

// maxOutput is how much of a program's output is kept.
const maxOutput = 64 << 10

// output runs a program to its end.
func output(ctx context.Context, limit time.Duration, args []string) (int, string, error) {
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(timed, args[0], args[1:]...)
	cmd.WaitDelay = 5 * time.Second
	var out capped
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, "", ctx.Err()
	case timed.Err() != nil:
		return 0, "", unavailable("%s did not end within %s", args[0], limit)
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), out.String(), nil
	case err != nil:
		return 0, "", unavailable("%w", err)
	}
	return 0, out.String(), nil
}

// capped keeps the last maxOutput bytes.
type capped struct{ b []byte }

func (c *capped) Write(p []byte) (int, error) {
	c.b = append(c.b, p...)
	if over := len(c.b) - maxOutput; over > 0 {
		c.b = append(c.b[:0], c.b[over:]...)
	}
	return len(p), nil
}

func (c *capped) String() string { return string(bytes.ToValidUTF8(c.b, []byte("?"))) }

func lastLine(out, none string) string {
	last := none
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, maxOutput+1)
	for lines.Scan() {
		if s := strings.TrimSpace(lines.Text()); s != "" {
			last = printable(s)
		}
	}
	return last
}

// Defender is Microsoft Defender's command line,
// https://learn.microsoft.com/defender-endpoint/command-line-arguments-microsoft-defender-antivirus:
// exit code 0 is nothing found, 2 is a detection that was not remedied, or an
// error; which of the two only the output says. -DisableRemediation leaves the
// file where it is, ignores exclusions and writes no detection to the log.
func Defender(program string) *Command {
	return &Command{Args: []string{program, "-Scan", "-ScanType", "3", "-File", Placeholder, "-DisableRemediation"},
		Read: readDefender, Ident: identifyDefender}
}

func readDefender(exit int, out string) (Verdict, error) {
	name, skipped := "", false
	for line := range strings.Lines(out) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == "Threat" && name == "" {
			name = printable(strings.TrimSpace(value))
		}
		skipped = skipped || strings.HasSuffix(strings.TrimSpace(line), "was skipped.")
	}
	switch {
	case name != "":
		return Verdict{Infected, name}, nil
	case exit == 0 && skipped:
		return Verdict{OverLimit, "skipped"}, nil
	case exit == 0:
		return Verdict{Result: Clean}, nil
	}
	return Verdict{}, unavailable("MpCmdRun ended with code %d: %s", exit, lastLine(out, ""))
}

// identifyDefender asks Windows which definitions are loaded. Where that is
// refused, the product still scans: the date is then unknown.
func identifyDefender(ctx context.Context) (Identity, error) {
	id := Identity{Engine: "Microsoft Defender"}
	const ask = `$s = Get-MpComputerStatus -ErrorAction Stop; @{p=$s.AMProductVersion; v=$s.AntivirusSignatureVersion; t=$s.AntivirusSignatureLastUpdated.ToUniversalTime().ToString('yyyy-MM-ddTHH:mm:ssZ')} | ConvertTo-Json -Compress`
	exit, out, err := output(ctx, time.Minute, []string{"powershell.exe", "-NoProfile", "-NonInteractive", "-Command", ask})
	if ctx.Err() != nil {
		return id, ctx.Err()
	}
	if err != nil || exit != 0 {
		return id, nil
	}
	return parseDefender(out, id), nil
}

func parseDefender(out string, id Identity) Identity {
	var s struct{ P, V, T string }
	if json.Unmarshal([]byte(strings.TrimSpace(out)), &s) != nil {
		return id
	}
	at, err := time.Parse(time.RFC3339, s.T)
	if err != nil || s.V == "" {
		return id
	}
	if s.P != "" {
		id.Engine = printable(fmt.Sprintf("%s %s", id.Engine, s.P))
	}
	id.Definitions, id.Date = printable(s.V), at
	return id
}
