"""The Cranfield collection (Cleverdon 1967): 1,400 abstracts, 225 questions, graded judgements."""

import re


def read(folder):
    """({id: (title, text)}, [(question, {id: grade})]) from the folder `cranfield`.

    A grade of -1 in the file stays negative; as in trec_eval it counts as not relevant.
    """
    documents = {}
    for block in re.split(r"^\.I ", (folder / "cran.all.1400").read_text(), flags=re.M)[1:]:
        parts = re.match(r"(\d+)\s*\n\.T\s*(.*?)\n\.A.*?\n\.W(.*)", block, re.S)
        documents[parts[1]] = (parts[2], parts[3])
    questions = [
        " ".join(re.split(r"\n\.W\s*", block)[1].split())
        for block in re.split(r"^\.I ", (folder / "cran.qry").read_text(), flags=re.M)[1:]
    ]
    grades = [{} for _ in questions]
    for line in (folder / "QRelsCorrectedforTRECeval").read_text().splitlines():
        query, _, document, grade = line.split()
        grades[int(query) - 1][document] = float(grade)
    return documents, list(zip(questions, grades, strict=True))
