package feed

// Carried is how far a product is carried by this build.
type Carried string

const (
	Confirmed   Carried = "confirmed"   // 動作確認済: the vendor's own client updates through it in the tests
	Conditional Carried = "conditional" // 条件付き: it works as the note says, or was not seen on a real machine
	Excluded    Carried = "excluded"    // 対象外: it cannot be carried, and the note says why
	Missing     Carried = "missing"     // 未対応: nobody has built it
)

// Coverage is one line of the board that says what this build carries.
type Coverage struct {
	Group   Text     `json:"group"`
	Product Text     `json:"product"`
	Kinds   []string `json:"kinds,omitempty"` // of this build, that carry it
	Carried Carried  `json:"carried"`
	Tier    string   `json:"tier,omitempty"` // of antivirus vendors: how strongly files are proved
	Note    Text     `json:"note"`
}
