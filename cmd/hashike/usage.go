package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/text/width"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
)

// usageError is a command line that cannot be understood; exit code 2.
type usageError struct{ error }

// dress gives the commands the catalogue's words and our own judgement of
// command lines: a mistyped word is never taken for "nothing to do".
func (a *app) dress(root *cobra.Command) {
	root.CompletionOptions.HiddenDefaultCmd = true
	root.InitDefaultHelpCmd()
	root.SetUsageTemplate(a.cat.T("help.template"))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{errors.New(a.cat.T("usage.flag", err.Error()))}
	})
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.lang != "" && a.lang != "ja" && a.lang != "en" {
			return usageError{errors.New(a.cat.T("usage.lang", a.lang))}
		}
		return nil
	}
	for _, c := range commands(root) {
		numbers(c)
		c.Flags().BoolP("help", "h", false, a.cat.T("flag.help"))
		switch {
		case c.Name() == "help" && c.Parent() == root:
			a.helps(c)
		case !c.Runnable():
			a.group(c)
		default:
			a.counted(c)
		}
	}
}

// helps makes "help" answer in the catalogue's words, and refuse what it does not know.
func (a *app) helps(c *cobra.Command) {
	c.Short, c.Long, c.Run = a.cat.T("cmd.help"), "", nil
	c.RunE = func(c *cobra.Command, words []string) error {
		about, rest, err := c.Root().Find(words)
		if err != nil || len(rest) > 0 {
			return usageError{errors.New(a.cat.T("usage.unknown", "hashike "+strings.Join(words, " ")))}
		}
		return about.Help()
	}
}

// commands lists a command and all below it.
func commands(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		out = append(out, commands(sub)...)
	}
	return out
}

// group makes a command that only holds others refuse a word it does not know.
func (a *app) group(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return a.unknown(c, args[0])
	}
}

// unknown says that a command has none of this name below it, and which is near.
func (a *app) unknown(c *cobra.Command, word string) error {
	typed := c.CommandPath() + " " + word
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(word); len(near) > 0 {
		return usageError{errors.New(a.cat.T("usage.meant", typed, c.CommandPath()+" "+strings.Join(near, ", ")))}
	}
	return usageError{errors.New(a.cat.T("usage.unknown", typed))}
}

// counted checks how many arguments there are, in the catalogue's words.
func (a *app) counted(c *cobra.Command) {
	check := c.Args
	if check == nil {
		check = cobra.NoArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		err := check(c, args)
		if err != nil && c.HasSubCommands() {
			return a.unknown(c, args[0])
		}
		if err != nil {
			return usageError{errors.New(a.cat.T("usage.args", strings.TrimSuffix(c.UseLine(), " [flags]")))}
		}
		return nil
	}
}

// needs is the mistake of leaving a flag out that a command cannot do without.
func (a *app) needs(flag, meaning string) error {
	return usageError{errors.New(a.cat.T("usage.needs", flag, a.cat.T(meaning)))}
}

// needsWith is the mistake of giving one flag without another.
func (a *app) needsWith(flag, other, meaning string) error {
	return usageError{errors.New(a.cat.T("usage.with", flag, other, a.cat.T(meaning)))}
}

// ring checks the name of a ring.
func (a *app) ring(name string) error {
	if slices.Contains(feed.Rings(), name) {
		return nil
	}
	return usageError{errors.New(a.cat.T("usage.ring", name, strings.Join(feed.Rings(), a.cat.T("list.comma"))))}
}

// number reads a number as typed: full width too.
func (a *app) number(text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(width.Narrow.String(text)), 10, 32)
	if err != nil {
		return 0, usageError{errors.New(a.cat.T("usage.number", text))}
	}
	return n, nil
}

// day reads a date of a person, 2027-03-31 or 令和9年3月31日: its end in JST.
func (a *app) day(flag, text string) (time.Time, error) {
	t, err := i18n.ParseDay(text)
	if err != nil {
		return t, usageError{errors.New(a.cat.T("usage.day", flag, text))}
	}
	return t.AddDate(0, 0, 1), nil
}

// narrowed is a flag that is a number: full-width digits are digits.
type narrowed struct{ pflag.Value }

func (v narrowed) Set(s string) error { return v.Value.Set(width.Narrow.String(s)) }

// numbers lets every flag that is a number take full-width digits.
func numbers(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if slices.Contains([]string{"int", "uint64", "intSlice"}, f.Value.Type()) {
			f.Value = narrowed{f.Value}
		}
	})
}

// named says that a file somebody named is not there (H-208).
func named(file string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrConfig), "H-208", "file", file, "detail", err.Error())
}

// inJST writes a log line's time as every screen does.
func inJST(groups []string, at slog.Attr) slog.Attr {
	if t := at.Value; at.Key == slog.TimeKey && len(groups) == 0 && t.Kind() == slog.KindTime {
		return slog.String(slog.TimeKey, t.Time().In(i18n.JST()).Format(time.RFC3339))
	}
	return at
}

// knows reports whether there is a text of this key.
func (a *app) knows(key string) bool { return a.cat.T(key) != key }
