// Package i18n holds what people read: the message catalogue in Japanese and
// English, and the form of dates, sizes and durations.
package i18n

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/width"
)

// JST is the only zone that people see. Japan has no daylight saving time.
func JST() *time.Location { return time.FixedZone("JST", 9*60*60) }

// Dash stands for what is not there. It is in Shift_JIS, which tables are exported in.
const Dash = "―"

// era names the Japanese era of a date and its first year (Era Name Act; 令和
// from 1 May 2019, 平成 from 8 January 1989). Before that, none.
func era(t time.Time) (name string, first int) {
	switch {
	case !t.Before(time.Date(2019, time.May, 1, 0, 0, 0, 0, JST())):
		return "令和", 2019
	case !t.Before(time.Date(1989, time.January, 8, 0, 0, 0, 0, JST())):
		return "平成", 1989
	}
	return "", 0
}

func eraYear(t time.Time, year int) string {
	name, first := era(t)
	switch n := year - first + 1; {
	case name == "":
		return fmt.Sprintf("%d年", year)
	case n == 1:
		return name + "元年"
	default:
		return fmt.Sprintf("%s%d年", name, n)
	}
}

// Day is the date in JST: 令和8年11月22日(日), or 22 Nov 2026 (Sun).
func Day(t time.Time, lang string) string {
	if t.IsZero() {
		return Dash
	}
	t = t.In(JST())
	if lang == "en" {
		return t.Format("2 Jan 2006 (Mon)")
	}
	week := []rune("日月火水木金土")[t.Weekday()]
	return fmt.Sprintf("%s%d月%d日(%c)", eraYear(t, t.Year()), int(t.Month()), t.Day(), week)
}

// Date is the date and time in JST: 令和8年11月22日(日) 14:05, or 22 Nov 2026
// (Sun) 14:05 JST. The zero time is a dash.
func Date(t time.Time, lang string) string {
	if t.IsZero() {
		return Dash
	}
	s := Day(t, lang) + " " + t.In(JST()).Format("15:04")
	if lang == "en" {
		s += " JST"
	}
	return s
}

// FiscalYear is the Japanese fiscal year (1 April to 31 March) of t: 令和8年度, or FY2026.
func FiscalYear(t time.Time, lang string) string {
	t = t.In(JST())
	y := t.Year()
	if t.Month() < time.April {
		y--
	}
	if lang == "en" {
		return fmt.Sprintf("FY%d", y)
	}
	// A fiscal year bears the name of the era at its beginning, but from 1 May
	// 2019 on that one is written 令和元年度 (ministries' agreement of 1 April 2019).
	at := time.Date(y, time.April, 1, 0, 0, 0, 0, JST())
	if y == 2019 {
		at = t
	}
	return eraYear(at, y) + "度"
}

// ParseDay reads a date as people write it, in digits of any width:
// 2027-03-31, 2027/3/31, 令和9年3月31日 or R9.3.31. It is the day's beginning in JST.
func ParseDay(text string) (time.Time, error) {
	s := strings.TrimSpace(width.Fold.String(text))
	first := 0
	for _, e := range []string{"令和", "R", "r"} {
		if rest, ok := strings.CutPrefix(s, e); ok {
			s, first = strings.Replace(rest, "元年", "1年", 1), 2018
			break
		}
	}
	s = strings.TrimSuffix(strings.NewReplacer("年", "-", "月", "-", "/", "-", ".", "-", "−", "-", "－", "-").Replace(s), "日")
	p := strings.Split(s, "-")
	if len(p) != 3 {
		return time.Time{}, fmt.Errorf("%.40q is no date", text)
	}
	var n [3]int
	for i := range p {
		v, err := strconv.Atoi(p[i])
		if err != nil {
			return time.Time{}, fmt.Errorf("%.40q is no date", text)
		}
		n[i] = v
	}
	t := time.Date(n[0]+first, time.Month(n[1]), n[2], 0, 0, 0, 0, JST())
	if t.Month() != time.Month(n[1]) || t.Day() != n[2] || t.Year() < 1989 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%.40q is no date", text)
	}
	return t, nil
}
