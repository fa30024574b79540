package feed

import "testing"

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "第412便　山田 太郎.dat": "第412便　山田 太郎.dat", "葛\U000e0100飾区": "葛\U000e0100飾区", "\ue000田": "\ue000田",
		"a\x1b[2Jb\r\nc\td": `a\x1b[2Jb\r\nc\td`, "a\u202egpj.exe": `a\u202egpj.exe`, "\u2066x\u2069": `\u2066x\u2069`,
		"\u200b\ufeff\u2028": `\u200b\ufeff\u2028`, "\x80\xffz": `\x80\xffz`, "\x7f\u009b": `\x7f\u009b`, "\U000e0041": `\U000e0041`, "�": "�",
	} {
		if got := Visible(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}
