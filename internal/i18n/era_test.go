package i18n

import (
	"testing"
	"time"
)

func TestDate(t *testing.T) {
	for _, c := range []struct{ at, ja, en string }{
		{"2026-11-22T05:05:00Z", "令和8年11月22日(日) 14:05", "22 Nov 2026 (Sun) 14:05 JST"},
		{"2019-04-30T14:59:00Z", "平成31年4月30日(火) 23:59", "30 Apr 2019 (Tue) 23:59 JST"},
		{"2019-04-30T15:00:00Z", "令和元年5月1日(水) 00:00", "1 May 2019 (Wed) 00:00 JST"},
		{"1989-01-07T14:59:00Z", "1989年1月7日(土) 23:59", "7 Jan 1989 (Sat) 23:59 JST"},
	} {
		at, _ := time.Parse(time.RFC3339, c.at)
		if got := Date(at, "ja"); got != c.ja {
			t.Errorf("%s: %s, want %s", c.at, got, c.ja)
		}
		if got := Date(at, "en"); got != c.en {
			t.Errorf("%s: %s, want %s", c.at, got, c.en)
		}
	}
	if Date(time.Time{}, "ja") != Dash {
		t.Error("zero time")
	}
}

func TestFiscalYear(t *testing.T) {
	for at, want := range map[string]string{
		"2027-03-31T14:59:59Z": "令和8年度",
		"2027-03-31T15:00:00Z": "令和9年度",
		"2019-06-01T00:00:00Z": "令和元年度",
		"2020-03-01T00:00:00Z": "令和元年度",
	} {
		tm, _ := time.Parse(time.RFC3339, at)
		if got := FiscalYear(tm, "ja"); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}

func TestParseDay(t *testing.T) {
	for _, s := range []string{"2027-03-31", "2027/3/31", "２０２７－０３－３１", "令和9年3月31日", "令和９年３月３１日", "R9.3.31"} {
		if got, err := ParseDay(s); err != nil || got.Format(time.RFC3339) != "2027-03-31T00:00:00+09:00" {
			t.Errorf("%s: %s %v", s, got, err)
		}
	}
	if got, err := ParseDay("令和元年5月1日"); err != nil || got.Year() != 2019 {
		t.Errorf("%s %v", got, err)
	}
	for _, s := range []string{"", "2027-02-30", "31-03-2027", "9年3月31日", "2027-03", "令和9年3月"} {
		if got, err := ParseDay(s); err == nil {
			t.Errorf("%s: %s", s, got)
		}
	}
}
