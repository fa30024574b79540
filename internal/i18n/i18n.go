// Package i18n holds every sentence that Hashike says to people, in Japanese
// and English, in one catalogue (catalogue.toml). Go error texts stay English
// and go to the log; a person sees a message with a stable code.
package i18n

import (
	_ "embed"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/hashike/hashike/internal/feed"
)

//go:embed catalogue.toml
var catalogueTOML string

//go:embed text.toml
var textTOML string

// Part is one language of a message: a title and the four parts, always in this order.
type Part struct {
	Title string `toml:"title"`
	What  string `toml:"what"`
	Safe  string `toml:"safe"`
	Next  string `toml:"next"`
	Call  string `toml:"call"`
}

// Message is one entry of the catalogue.
type Message struct {
	Severity string `toml:"severity"` // stop, hold, quarantine, caution, notice
	JA       Part   `toml:"ja"`
	EN       Part   `toml:"en"`
}

// Contact is whom to call: the config's [contact] table.
type Contact struct {
	Info       string `toml:"info" doc:"情報担当（この道具の担当者）の氏名と内線 / operator"`
	Approver   string `toml:"approver" doc:"承認者 / approver"`
	Incident   string `toml:"incident" doc:"事故の連絡先（CSIRT等） / incident desk"`
	Cloud      string `toml:"cloud" doc:"セキュリティクラウドの窓口 / security cloud desk"`
	Maintainer string `toml:"maintainer" doc:"保守業者 / maintenance contractor"`
}

// Catalog answers in one language.
type Catalog struct {
	lang     string
	contact  Contact
	messages map[string]Message
	texts    map[string]map[string]string
}

// Load reads the built-in catalogue. lang is "ja" or "en".
func Load(lang string, contact Contact) (*Catalog, error) {
	var file struct {
		Message map[string]Message `toml:"message"`
	}
	if _, err := toml.Decode(catalogueTOML, &file); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	c := &Catalog{lang: lang, contact: contact, messages: file.Message, texts: map[string]map[string]string{}}
	if _, err := toml.Decode(textTOML, &c.texts); err != nil {
		return nil, fmt.Errorf("texts: %w", err)
	}
	return c, nil
}

// Lang guesses the language from an explicit choice, then the environment; Japanese first.
func Lang(choice string) string {
	if choice == "ja" || choice == "en" {
		return choice
	}
	for _, v := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if s := os.Getenv(v); s != "" {
			if strings.HasPrefix(s, "ja") || s == "C" || s == "POSIX" || strings.HasPrefix(s, "C.") {
				return "ja"
			}
			return "en"
		}
	}
	return "ja"
}

// Language of this catalogue.
func (c *Catalog) Language() string { return c.lang }

// Codes lists the message codes.
func (c *Catalog) Codes() []string {
	var out []string
	for k := range c.messages {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Message returns a message as it stands in the catalogue.
func (c *Catalog) Message(code string) (Message, bool) {
	m, ok := c.messages[code]
	return m, ok
}

// T is a short text of the command or a page. A key that is missing shows
// itself: the test in this package does not let that happen.
func (c *Catalog) T(key string, args ...any) string {
	s, ok := c.texts[key][c.lang]
	if !ok {
		return key
	}
	if len(args) == 0 {
		return s
	}
	args = slices.Clone(args)
	for i, v := range args { // names of files and what else others wrote
		switch v := v.(type) {
		case string:
			args[i] = feed.Visible(v)
		case error:
			args[i] = feed.Visible(v.Error())
		}
	}
	return fmt.Sprintf(s, args...)
}

func (m Message) in(lang string) Part {
	if lang == "en" {
		return m.EN
	}
	return m.JA
}

// Render writes a message for a terminal or a page of plain text.
func (c *Catalog) Render(code string, args map[string]string) string {
	m, ok := c.messages[code]
	if !ok {
		m, code = c.messages["H-901"], code+" (H-901)"
	}
	p := m.in(c.lang)
	fill := func(s string) string { return c.fill(s, args) }
	return fmt.Sprintf("%s%s %s\n  %s: %s\n  %s: %s\n  %s: %s\n  %s: %s\n",
		c.T("severity."+m.Severity), code, fill(p.Title),
		c.T("part.what"), fill(p.What), c.T("part.safe"), fill(p.Safe),
		c.T("part.next"), fill(p.Next), c.T("part.call"), fill(p.Call))
}

// Brace is a placeholder in the catalogue.
func Brace() *regexp.Regexp { return regexp.MustCompile(`\{([a-z]+)\}`) }

func (c *Catalog) fill(s string, args map[string]string) string {
	return Brace().ReplaceAllStringFunc(s, func(b string) string {
		key := b[1 : len(b)-1]
		if v := c.contactOf(key); v != "" {
			return v
		}
		if v := strings.TrimSpace(args[key]); v != "" {
			return feed.Visible(v)
		}
		return c.T("unknown")
	})
}

// contactOf fills a role; an empty one is a blank line to write on, never gone.
func (c *Catalog) contactOf(key string) string {
	roles := map[string]string{"info": c.contact.Info, "approver": c.contact.Approver, "incident": c.contact.Incident,
		"cloud": c.contact.Cloud, "maintainer": c.contact.Maintainer}
	v, ok := roles[key]
	if !ok {
		return ""
	}
	if strings.TrimSpace(v) == "" {
		return c.T("role."+key) + "（　　　　　　　）"
	}
	return c.T("role."+key) + " " + v
}
