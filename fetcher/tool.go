package fetcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// tool runs the vendor's own update tool (freshclam, cvdupdate), which fills
// the feed's spool directory. It is a child without a shell; what it said last
// is shown when it fails.
func (f *Fetcher) tool(ctx context.Context, s feed.Setup) error {
	if len(s.Run) == 0 {
		return nil
	}
	f.Progress(Event{Feed: s.Name, Stage: "tool", Name: filepath.Base(s.Run[0])})
	name, err := exec.LookPath(s.Run[0])
	if err == nil {
		switch strings.ToLower(filepath.Ext(name)) {
		case ".bat", ".cmd": // Windows would hand these to a shell
			err = errors.New("batch files are not run")
		}
	}
	if err != nil {
		return f.misconfigured(fmt.Errorf("feed %s: run: %s: %w", s.Name, s.Run[0], err))
	}
	timeout := f.up.net.Timeouts.Tool
	tctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var out tail
	cmd := exec.CommandContext(tctx, name, s.Run[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = f.toolEnv()
	cmd.WaitDelay = 5 * time.Second // its own children may keep the pipe open
	if err = cmd.Run(); err == nil {
		f.Log.Info("vendor tool", "feed", s.Name, "tool", name, "said", out.String())
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if tctx.Err() != nil {
		err = fmt.Errorf("not finished after %s", timeout)
	}
	return feed.NewFault(fmt.Errorf("feed %s: tool %s: %w: %s: %w", s.Name, name, err, out.String(), feed.ErrTransient),
		"H-304", "feed", s.Name, "tool", filepath.Base(name), "detail", clip(err.Error()+": "+out.String(), 600))
}

// toolEnv hands a configured proxy on.
func (f *Fetcher) toolEnv() []string {
	env := os.Environ()
	switch p := f.Network.Proxy; p {
	case "", "system":
	case "none":
		for _, k := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
			env = append(env, k+"=")
		}
	default:
		for _, k := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
			env = append(env, k+"="+p)
		}
	}
	return env
}

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 2000

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-tailBytes):]...)
	if len(t.buf) > tailBytes {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailBytes:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "")), "\n")
	return clip(strings.Join(lines, " / "), tailBytes)
}
