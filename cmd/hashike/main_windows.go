package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/windows/svc"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// start runs the command, as a service where the service manager started us
// ("sc create", docs/windows-acceptance.md).
//
// The console needs no code page: Go writes to it in UTF-16, and pipes and
// files get UTF-8.
func start(args []string) int {
	args = unquoted(args)
	if is, err := svc.IsWindowsService(); err != nil || !is {
		return foreground(args)
	}
	s := &windowsService{args: args}
	if err := svc.Run("", s); err != nil { // a service of its own process needs no name
		return exitOther
	}
	return int(s.code)
}

// unquoted repairs what becomes of "E:\" in quotation marks: Windows programs
// read \" as a quotation mark, so that E:" arrives. No path has one.
func unquoted(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if out[i] = a; strings.HasSuffix(a, `"`) && strings.Count(a, `"`) == 1 {
			out[i] = strings.TrimSuffix(a, `"`) + `\`
		}
	}
	return out
}

type windowsService struct {
	args []string
	code uint32
}

// Execute is called by the service manager's dispatcher (svc.Handler).
func (s *windowsService) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	status <- svc.Status{State: svc.StartPending}
	log := serviceLog(s.args)
	defer log.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan uint32, 1)
	go func() { done <- uint32(run(ctx, s.args, strings.NewReader(""), log, log)) }()
	status <- svc.Status{State: svc.Running, Accepts: svc.AcceptStop | svc.AcceptShutdown}
	for {
		select {
		case s.code = <-done:
			return s.code != 0, s.code
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				// Running downloads may take ten seconds (mirror.Server).
				status <- svc.Status{State: svc.StopPending, WaitHint: 20_000}
				cancel()
			}
		}
	}
}

// serviceLog is where a service says what the command would say on the screen.
func serviceLog(args []string) io.WriteCloser {
	data := defaultData()
	for i, v := range args {
		if d, ok := strings.CutPrefix(v, "--data="); ok {
			data = d
		} else if v == "--data" && i+1 < len(args) {
			data = args[i+1]
		}
	}
	name := filepath.Join(state.Dir(data).Logs(), "service-"+time.Now().In(feed.JST()).Format("200601")+".log")
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return os.Stderr
	}
	fmt.Fprintf(f, "--- %s\n", time.Now().Format(time.RFC3339))
	return f
}
