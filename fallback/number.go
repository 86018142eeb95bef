package fallback

import "strings"

// emergency lists common emergency numbers. All are short enough to be short codes as well; the list
// says why the rule must never be loosened. [F-12]
var emergency = []string{
	"000", "061", "066", "100", "101", "102", "103", "104", "105", "106", "107", "108", "110", "111",
	"112", "113", "114", "115", "116", "117", "118", "119", "120", "122", "123", "127", "128", "130",
	"131", "132", "133", "140", "143", "144", "150", "151", "155", "158", "160", "161", "166", "190",
	"191", "192", "193", "194", "195", "196", "197", "198", "199", "911", "988", "991", "992", "993",
	"994", "995", "996", "997", "998", "999", "10111", "116000", "116111", "116117", "116123",
}

// maxShortCode is the most digits a short code has.
const maxShortCode = 6

// minNational is the fewest digits a number has after its plus sign, as in [wire.ParseNumber].
const minNational = 7

// OwnSMSOnly reports whether what the user dialled must never be looked up and always be the phone's
// own SMS: emergency numbers, short codes of up to six digits, service codes with * or #, and names
// such as those banks send from. "07700 900123" is none of these: it lacks only its country. [F-12]
func OwnSMSOnly(dialled string) bool {
	s := strings.NewReplacer(" ", "", "-", "", ".", "", "(", "", ")", "", "/", "").Replace(dialled)
	digits, plus := strings.CutPrefix(s, "+")
	if strings.Trim(digits, "0123456789") != "" {
		return true
	}
	if plus {
		return len(digits) < minNational
	}
	return len(digits) <= maxShortCode || isEmergency(digits)
}

func isEmergency(digits string) bool {
	for _, e := range emergency {
		if digits == e {
			return true
		}
	}
	return false
}
