module quickstart

go 1.19

require go.mongodb.org/mongo-driver v1.17.6
