// Command kstatus says of each object on its standard input (a JSON array) what kstatus computes of it, which is what
// Flux, kpt and others wait for: one JSON array of {status, message} on its standard output.
package main

import (
	"encoding/json"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	var objects []map[string]any
	verdicts := []verdict{}
	decoder := json.NewDecoder(os.Stdin)
	if err := decoder.Decode(&objects); err != nil {
		log.Fatal(err)
	}
	for _, object := range objects {
		// Numbers as a client of the API has them: whole ones are int64.
		text, err := json.Marshal(object)
		if err != nil {
			log.Fatal(err)
		}
		one := &unstructured.Unstructured{}
		if err := one.UnmarshalJSON(text); err != nil {
			log.Fatal(err)
		}
		result, err := status.Compute(one)
		if err != nil {
			log.Fatal(err)
		}
		verdicts = append(verdicts, verdict{string(result.Status), result.Message})
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		log.Fatal(err)
	}
}
