package packager

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

// guardHere is how a new bundle key is kept on this system.
const guardHere = GuardDPAPI

// seal binds bytes to this machine (CryptProtectData, CRYPTPROTECT_LOCAL_MACHINE):
// service and operator work under different accounts, and the data directory's
// ACL says who may read the file. A copy of the disk elsewhere is worth nothing.
func seal(b []byte) ([]byte, error) {
	var out windows.DataBlob
	err := windows.CryptProtectData(blob(b), nil, nil, 0, nil, windows.CRYPTPROTECT_UI_FORBIDDEN|windows.CRYPTPROTECT_LOCAL_MACHINE, &out)
	return taken(&out), err
}

func unseal(b []byte) ([]byte, error) {
	var out windows.DataBlob
	err := windows.CryptUnprotectData(blob(b), nil, nil, 0, nil, windows.CRYPTPROTECT_UI_FORBIDDEN, &out)
	return taken(&out), err
}

func blob(b []byte) *windows.DataBlob {
	if len(b) == 0 {
		return &windows.DataBlob{}
	}
	return &windows.DataBlob{Size: uint32(len(b)), Data: &b[0]}
}

// taken copies what Windows allocated and frees it.
func taken(d *windows.DataBlob) []byte {
	if d.Data == nil {
		return nil
	}
	b := make([]byte, d.Size)
	copy(b, unsafe.Slice(d.Data, d.Size))
	windows.LocalFree(windows.Handle(unsafe.Pointer(d.Data)))
	return b
}
