// Package all lists the kinds of this build. Adding a vendor is one line here
// and one folder beside it.
package all

import (
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/adobe"
	"github.com/hashike/hashike/internal/feed/apt"
	"github.com/hashike/hashike/internal/feed/chromium"
	"github.com/hashike/hashike/internal/feed/clamav"
	"github.com/hashike/hashike/internal/feed/defender"
	"github.com/hashike/hashike/internal/feed/eset"
	"github.com/hashike/hashike/internal/feed/intake"
	"github.com/hashike/hashike/internal/feed/kaspersky"
	"github.com/hashike/hashike/internal/feed/mozilla"
	"github.com/hashike/hashike/internal/feed/msix"
	"github.com/hashike/hashike/internal/feed/office"
	"github.com/hashike/hashike/internal/feed/sophos"
	"github.com/hashike/hashike/internal/feed/symantec"
	"github.com/hashike/hashike/internal/feed/tree"
	"github.com/hashike/hashike/internal/feed/trellix"
	"github.com/hashike/hashike/internal/feed/trendmicro"
	"github.com/hashike/hashike/internal/feed/winget"
	"github.com/hashike/hashike/internal/feed/withsecure"
	"github.com/hashike/hashike/internal/feed/wsus"
)

// Kinds is the table, in the order of the documentation.
func Kinds() []feed.Kind {
	return []feed.Kind{
		adobe.Kind(),
		apt.Kind(),
		chromium.Kind(),
		clamav.Kind(),
		defender.Kind(),
		eset.Kind(),
		intake.Kind(),
		kaspersky.Kind(),
		sophos.Kind(),
		symantec.Kind(),
		trellix.Kind(),
		trendmicro.Kind(),
		withsecure.Kind(),
		mozilla.Kind(),
		msix.Kind(),
		office.Kind(),
		tree.Kind(),
		winget.Kind(),
		wsus.Kind(),
	}
}
