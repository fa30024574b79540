package cab

// huffman decodes a canonical code of at most 16 bits: short codes by one
// look-up, long ones by their length.
type huffman struct {
	empty  bool
	fast   [1 << fastBits]uint16 // symbol<<4 | length-1; 0xFFFF: longer
	first  [lzxMaxBits + 1]int   // first code of a length
	count  [lzxMaxBits + 1]int
	start  [lzxMaxBits + 1]int // where a length's symbols begin in sorted
	sorted [lzxChars + 50*8]uint16
}

const fastBits = 10

// build makes the tables; false if the lengths are no complete code. All
// lengths zero sets empty.
func (h *huffman) build(lens []uint8) bool {
	h.count = [lzxMaxBits + 1]int{}
	for _, n := range lens {
		h.count[n]++
	}
	h.empty = h.count[0] == len(lens)
	h.count[0] = 0
	code, at := 0, 0
	for n := 1; n <= lzxMaxBits; n++ {
		code <<= 1
		h.first[n], h.start[n] = code, at
		code += h.count[n]
		at += h.count[n]
		if code > 1<<n {
			return false
		}
	}
	if code != 1<<lzxMaxBits {
		return false
	}
	next := h.start
	for s, n := range lens {
		if n > 0 {
			h.sorted[next[n]] = uint16(s)
			next[n]++
		}
	}
	for i := range h.fast {
		h.fast[i] = 0xFFFF
	}
	for n := 1; n <= fastBits; n++ {
		for i := range h.count[n] {
			v := h.sorted[h.start[n]+i]<<4 | uint16(n-1)
			from := (h.first[n] + i) << (fastBits - n)
			for j := range 1 << (fastBits - n) {
				h.fast[from+j] = v
			}
		}
	}
	return true
}

// decode finds the symbol at the top of w and its length in bits.
func (h *huffman) decode(w uint16) (symbol int, bits uint) {
	if v := h.fast[w>>(16-fastBits)]; v != 0xFFFF {
		return int(v >> 4), uint(v&15) + 1
	}
	for n := fastBits + 1; n <= lzxMaxBits; n++ {
		if i := int(w>>(16-n)) - h.first[n]; i < h.count[n] {
			return int(h.sorted[h.start[n]+i]), uint(n)
		}
	}
	return 0, 32 // a complete code has no such word; more bits than there are is an error
}
