//go:build !windows

package packager

import (
	"errors"
	"fmt"

	"github.com/hashike/hashike/internal/feed"
)

// guardHere is how a new bundle key is kept on this system.
const guardHere = GuardFile

var errNoDPAPI = errors.New("DPAPI is Windows' own")

func seal([]byte) ([]byte, error) { return nil, fmt.Errorf("%w: %w", errNoDPAPI, feed.ErrConfig) }

func unseal([]byte) ([]byte, error) { return nil, fmt.Errorf("%w: %w", errNoDPAPI, feed.ErrConfig) }
